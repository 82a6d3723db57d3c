"""The commented recipe that `peftodyssey recipes new` writes for models and texts, from what was found of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peftodyssey.errors import InputError
from peftodyssey.recipe.corpus_names import PREFIXES
from peftodyssey.recipe.schema_texts import NAME

SKIP_FIRST = "  first_token: skip         # the start token {marker} marks turns of a chat, not the start of a text\n"
TOO_LONG = "  too_long: drop            # examples longer than seq_len are left out; truncate cuts their ends\n"
PLAIN_CHAT = "  chat_template: plain      # the model has none; or name a Jinja file\n"
TEMPLATE = """\
# What does fine-tuning {models} on {names} gain, and what does it forget, by full fine-tuning, LoRA and QLoRA?
# Check before you run:  peftodyssey check {file}      then:  peftodyssey run {file}
version: 1
name: {name}
seeds: [0]                  # [0, 1, 2] shows the noise between seeds

model: {model_yaml}

domains:                    # datasets to fine-tune on, each by itself
{domains}

general: [bundled/wiki_general]       # where forgetting is measured: text that is not trained on

methods:                    # tune: auto looks for the learning rate with the lowest validation loss, in rounds
{methods}

train:
  budget: {budget}       # the same for every cell; or `200k tokens`, `2 epochs`, `300 steps`
  seq_len: {seq_len}              # sequence length of training, in tokens
  batch_tokens: {batch}         # tokens of one optimiser step; the micro-batch size is chosen by memory
  schedule: cosine          # learning rate schedule: constant | linear | cosine | wsd
  warmup: 3%
  objective: {objective}           # text: loss on every token; sft: on the answers only
{more}  eval_at: [50%, 100%]     # fractions of the budget after which held-out text is scored

score:
  context: {context}              # tokens of a window
{first_token}  tokens: 50k               # of each split at most this many, by whole documents

measure: [degradation, forgetting, tokens]
"""
METHODS = """\
  - {method: full, lr: {tune: auto}}
  - {method: lora, rank: [4, 16], alpha: 2r, lr: {tune: auto}}
  - {method: qlora, rank: 16, lr: {tune: auto}}         # the base in 4 bits"""
STORED_QUANTISED = "  - {method: lora, rank: [4, 16], alpha: 2r, lr: {tune: auto}}      # the base is stored quantised"


@dataclass(frozen=True)
class ModelFacts:
    """What a new recipe heeds of a model; unknown where the model cannot be looked at."""

    training_length: int | None = None  # tokens that it was trained on at once
    chat_marker: str | None = None  # its start token, where that marks turns of a chat
    has_chat_template: bool = True
    stored_quantised: bool = False


@dataclass(frozen=True)
class TextFacts:
    """What a new recipe heeds of a text: how it is read, and how long it is under the first model's tokenizer."""

    name: str
    source: str  # as it was given
    keys: tuple[tuple[str, str], ...] = ()  # further keys of the text, as YAML
    remarks: tuple[str, ...] = ()  # sentences above its line
    has_answers: bool = False
    is_chat: bool = False
    lengths: tuple[int, ...] = field(default=(), repr=False)  # tokens of the first training documents
    train_tokens: int | None = None  # of its training split, about; None: not known, or large


def recipe_text(target: Path, models: Sequence[str], texts: Sequence[TextFacts], facts: Sequence[ModelFacts]) -> str:
    """The recipe's text; raises InputError where no text is given or texts want different objectives."""
    if not texts:
        raise InputError(
            "no text is given", "name one: --domain data/notes.jsonl or --domain bundled/wiki_history_events"
        )
    if len({text.has_answers for text in texts}) > 1:
        raise InputError(
            "some of the texts are prompts with answers, some are plain text",
            "make one recipe for each kind: they are trained with different objectives",
        )
    folder = target.resolve().parent
    small = all(model.startswith("bundled/") for model in models)
    longest = min(fact.training_length or 512 for fact in facts)
    seq_len, too_long = _seq_len(texts, min(256 if small else 512, longest), longest)
    marker = next((fact.chat_marker for fact in facts if fact.chat_marker), None)
    plain = any(text.is_chat for text in texts) and not all(fact.has_chat_template for fact in facts)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._")
    names = [quoted(_local(model, folder)) for model in models]
    budget, batch = _budget(texts, seq_len, small)
    return TEMPLATE.format(
        models=" and ".join(models),
        model_yaml=names[0] if len(names) == 1 else f"[{', '.join(names)}]",
        names=" and ".join(text.name for text in texts),
        file=target.name,
        name=quoted(stem if re.match(NAME, stem) else "my-recipe"),
        domains="\n".join(_domain_lines(texts, folder)),
        methods=STORED_QUANTISED if any(fact.stored_quantised for fact in facts) else METHODS,
        budget=budget,
        seq_len=seq_len,
        batch=batch,
        context=min(256 if small else 512, longest),
        first_token=SKIP_FIRST.format(marker=marker) if marker else "",
        objective="sft" if texts[0].has_answers else "text",
        more=(TOO_LONG if too_long else "") + (PLAIN_CHAT if plain else ""),
    )


def _seq_len(texts: Sequence[TextFacts], usual: int, most: int) -> tuple[int, bool]:
    """The sequence length in tokens, and whether examples are longer: as long as most documents, in powers of two.

    Examples with answers are not divided, so all of them have to fit, up to `most`; other text is, up to `usual`.
    """
    lengths = sorted(length for text in texts for length in text.lengths)
    if not lengths:
        return usual, False
    if not texts[0].has_answers:
        return max(64, min(usual, _power(lengths[int(0.9 * (len(lengths) - 1))]))), False
    length = min(max(64, _power(lengths[-1] + lengths[-1] // 8)), most)
    return length, lengths[-1] + 2 > length


def _power(tokens: int) -> int:
    return 1 << max(tokens - 1, 1).bit_length()


def _budget(texts: Sequence[TextFacts], seq_len: int, small: bool) -> tuple[str, str]:
    """Three epochs of a small text, at most 200k tokens; and the tokens of a step, so that there are some dozens."""
    known = [text.train_tokens for text in texts if text.train_tokens is not None]
    few = len(known) == len(texts) and max(known) * 3 < 200_000
    budget, tokens = ("3 epochs", max(known) * 3) if few else ("200k tokens", 200_000)
    wanted = min(4_096 if small else 16_384, max(tokens // 30, seq_len))
    return budget, str(max(1, wanted // seq_len) * seq_len)


def _domain_lines(texts: Sequence[TextFacts], folder: Path) -> list[str]:
    lines: list[str] = []
    for number, text in enumerate(texts):
        same = sum(other.name == text.name for other in texts[:number])
        name = quoted(f"{text.name}-{same + 1}" if same else text.name)
        is_name = text.source.startswith(PREFIXES)
        entry = f"source: {quoted(text.source)}" if is_name else f"path: {quoted(_relative(text.source, folder))}"
        more = "".join(f", {key}: {value}" for key, value in text.keys)
        lines += [f"  # {remark}" for remark in text.remarks]
        lines.append(f"  - {{name: {name}, {entry}{more}}}")
    return lines


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


def quoted(text: str) -> str:
    """`text` as a scalar of YAML that reads back as this text, inside of a flow mapping too."""
    plain = re.fullmatch(r"[A-Za-z./~][A-Za-z0-9._/~:-]*", text) and not re.fullmatch(r"(?i)null|true|false|~", text)
    return text if plain else json.dumps(text, ensure_ascii=False)
