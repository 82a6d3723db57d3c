"""The commented recipe that `peftodyssey recipes new` writes for a model and texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.errors import InputError
from peftodyssey.recipe.corpus_names import PREFIXES, corpus_name
from peftodyssey.recipe.schema_texts import NAME, Corpus

FirstRow = Callable[[Path], dict[str, Any] | None]
TEXT_FIELDS = ("text", "content", "document", "article", "body", "code", "abstract")

SKIP_FIRST = "  first_token: skip         # the start token {marker} marks turns of a chat, not the start of a text\n"
TEMPLATE = """\
# What does fine-tuning {model} on {names} gain, and what does it forget, by full fine-tuning, LoRA and QLoRA?
# Check before you run:  peftodyssey check {file}      then:  peftodyssey run {file}
version: 1
name: {name}
seeds: [0]                  # [0, 1, 2] shows the noise between seeds

model: {model_yaml}

domains:                    # datasets to fine-tune on, each by itself
{domains}

general: [bundled/wiki_general]       # where forgetting is measured: text that is not trained on

methods:                    # tune: the learning rate with the lowest validation loss is reported on test
  - {{method: full, lr: {{tune: [3e-5, 1e-4, 3e-4]}}}}
  - {{method: lora, rank: [4, 16], alpha: 2r, lr: {{tune: [3e-4, 1e-3, 3e-3]}}}}
  - {{method: qlora, rank: 16, lr: {{tune: [3e-4, 1e-3, 3e-3]}}}}         # the base in 4 bits

train:
  budget: 200k tokens       # the same for every cell; or `2 epochs`, `300 steps`
  seq_len: {seq_len}              # sequence length of training, in tokens
  batch_tokens: {batch}         # tokens of one optimiser step; the micro-batch size is chosen by memory
  schedule: cosine          # learning rate schedule: constant | linear | cosine | wsd
  warmup: 3%
  objective: {objective}           # text: loss on every token; sft: on the answers only
  eval_at: [50%, 100%]     # fractions of the budget after which held-out text is scored

score:
  context: {seq_len}              # tokens of a window
{first_token}  tokens: 50k               # of each split at most this many, by whole documents

measure: [degradation, forgetting, tokens]
"""


@dataclass(frozen=True)
class ModelFacts:
    """What a new recipe heeds of the model; unknown where the model cannot be looked at."""

    training_length: int | None = None  # tokens that it was trained on at once
    chat_marker: str | None = None  # its start token, where that marks turns of a chat


def recipe_text(target: Path, model: str, domains: list[str], first_row: FirstRow, facts: ModelFacts) -> str:
    """The recipe's text; raises InputError where a path does not exist or no text is given."""
    if not domains:
        raise InputError(
            "no text is given", "name one: --domain data/notes.jsonl or --domain bundled/wiki_history_events"
        )
    folder = target.resolve().parent
    lines, names, sft = _domain_lines(domains, folder, first_row)
    if len(set(sft)) > 1:
        raise InputError(
            "some of the texts are prompts with answers, some are plain text",
            "make one recipe for each kind: they are trained with different objectives",
        )
    small = model.startswith("bundled/")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._")
    return TEMPLATE.format(
        model=model,
        model_yaml=_quoted(_local(model, folder)),
        names=" and ".join(names),
        file=target.name,
        name=_quoted(stem if re.match(NAME, stem) else "my-recipe"),
        domains="\n".join(lines),
        seq_len=min(256 if small else 512, facts.training_length or 512),
        batch="4k" if small else "16k",
        first_token=SKIP_FIRST.format(marker=facts.chat_marker) if facts.chat_marker else "",
        objective="sft" if sft[0] else "text",
    )


def _domain_lines(domains: Iterable[str], folder: Path, first_row: FirstRow) -> tuple[list[str], list[str], list[bool]]:
    lines: list[str] = []
    names: list[str] = []
    sft: list[bool] = []
    for text in domains:
        name = corpus_name(Corpus.model_validate({"source": text}))
        same = names.count(name)
        if text.startswith(PREFIXES):
            field, is_sft, entry = None, False, f"source: {_quoted(text)}"
        else:
            field, is_sft = look_at(Path(text).expanduser(), first_row)
            entry = f"path: {_quoted(_relative(text, folder))}"
        more = f", field: {_quoted(field)}" if field and field != "text" else ""
        lines.append(f"  - {{name: {_quoted(f'{name}-{same + 1}' if same else name)}, {entry}{more}}}")
        names.append(name)
        sft.append(is_sft)
    return lines, names, sft


def _local(model: str, folder: Path) -> str:
    return (
        _relative(model, folder)
        if not model.startswith(("bundled/", "random/")) and Path(model).expanduser().is_dir()
        else model
    )


def _relative(text: str, folder: Path) -> str:
    """The path relative to the recipe's folder; absolute where it is outside of it."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    return "./" + path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z./~][A-Za-z0-9._/~:-]*", text) and not re.fullmatch(r"(?i)null|true|false|~", text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def look_at(path: Path, first_row: FirstRow) -> tuple[str | None, bool]:
    """The text field of the rows of `path` (None for plain text), and whether they are prompts with answers."""
    files = _files(path)
    row = first_row(files[0])
    if row is None:
        return None, False
    if "messages" in row or {"prompt", "completion"} <= row.keys():
        return None, True
    usual = [name for name in TEXT_FIELDS if isinstance(row.get(name), str)]
    by_length = sorted((n for n, v in row.items() if isinstance(v, str)), key=lambda n: -len(row[n]))
    if not by_length:
        raise InputError(
            f"{files[0]} has no field of text; its fields are: {', '.join(row)}", "name a file whose rows have one"
        )
    return (usual or by_length)[0], False


def _files(path: Path) -> list[Path]:
    if any(c in "*?[" for c in str(path)):
        root = Path(path.anchor or ".")
        files = sorted(root.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    else:
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise InputError(f"there is no text at {path}", "give a file, a folder or a pattern such as 'data/*.jsonl'")
    return files
