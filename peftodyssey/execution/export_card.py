"""The model card of an export: what it is, what was measured, and lines of Python that load it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from peftodyssey.execution.export_base import BESIDE, PlainBase
from peftodyssey.execution.merge import Merged
from peftodyssey.recipe.cell import QuantSpec

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
GGUF = "For llama.cpp, `python convert_hf_to_gguf.py FOLDER` in its repository writes this folder as a GGUF file."
GGUF_ADAPTER = (
    "For a GGUF file, export the cell with `--merge` and use llama.cpp's `python convert_hf_to_gguf.py FOLDER`."
)


@dataclass(frozen=True)
class CardFacts:
    """What the card says besides the results of the cell."""

    is_adapter: bool
    base: PlainBase | None  # of an adapter
    quant: QuantSpec | None  # with which the base of an adapter is loaded
    merged: Merged | None
    on_hub: bool  # whether the base's name is that of a model on the Hub
    repository: str | None  # on the Hub, to which the folder is uploaded


def card(row: Mapping[str, Any], facts: CardFacts) -> str:
    """The card in Markdown, with front matter in YAML."""
    revision = f", revision {code(row['revision'])}" if row["revision"] else ""
    trained = (
        f" Trained on {row['tokens']:,} tokens in {row['steps']:,} steps, lr {row['lr']:g}, seed {row['seed']}."
        if row["lr"]
        else ""
    )
    sections = [
        _front_matter(row, facts),
        f"# {escape(row['label'])} on {escape(row['domain'])}",
        f"Base: {code(row['model'])}{revision}.{trained}",
        _results(row),
        *(_merge_section(facts.merged) if facts.merged else ()),
        _how_to_load(facts),
        _block(snippet(row, facts)),
        GGUF_ADAPTER if facts.is_adapter else GGUF,
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(row: Mapping[str, Any], facts: CardFacts) -> str:
    named = facts.on_hub or not facts.repository  # the Hub refuses a base_model that is no model there
    content = {"base_model": row["model"]} if named else {}
    content |= {"library_name": "peft" if facts.is_adapter else "transformers", "tags": ["peftodyssey"]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _results(row: Mapping[str, Any]) -> str:
    lines = [
        "| measured | before | after | change (95 % interval) |",
        "|---|---|---|---|",
        f"| test NLL, nats/token | {row['nll_before']:.4f} | {row['nll_after']:.4f} "
        f"| {change(row, 'delta_nll', 'delta')} |",
        f"| test perplexity | {row['ppl_before']:.2f} | {row['ppl_after']:.2f} | |",
    ]
    if row["forgetting"] is not None:
        lines.append(
            f"| general NLL, nats/token | {row['general_nll_before']:.4f} | {row['general_nll_after']:.4f} "
            f"| {change(row, 'forgetting', 'forgetting')} |"
        )
    if row["nll_quantised"] is not None:
        lines.append(f"| test NLL of the quantised base ({row['quant']}) | {row['nll_quantised']:.4f} | | |")
    return "\n".join(lines)


def _merge_section(merged: Merged) -> list[str]:
    """What the adapter was merged into, and the merged model beside it."""
    drift = merged.drift
    lines = [
        f"| {drift.tokens:,} tokens of {drift.documents} documents of the test text | nats/token |",
        "|---|---|",
        f"| NLL of the adapter on its own base | {drift.adapter_nll:.6f} |",
        f"| NLL of the merged model | {drift.merged_nll:.6f} |",
        f"| drift: merged - adapter | {drift.change_text} |",
        f"| mean KL of the predictions, adapter to merged | {drift.kl:.2e} |",
    ]
    before = (
        "The losses above were measured before the merge, with the adapter on its own base; those below compare both."
    )
    return [f"{merged.into} {before}", "\n".join(lines), *(f"Note: {note}." for note in merged.notes)]


def _how_to_load(facts: CardFacts) -> str:
    where = "It runs as it stands" + ("." if facts.repository else " in this folder.")
    if facts.base is not None and facts.base.name is None:
        return f"Load it on its base, which lies in `{BESIDE}/`. {where}"
    return f"Load it{' on its base' if facts.is_adapter else ''}. {where}"


def snippet(row: Mapping[str, Any], facts: CardFacts) -> str:
    """Python that loads the folder in plain transformers and continues a text."""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if facts.repository:
        lines.insert(0, "from huggingface_hub import snapshot_download")
        lines.append(f"folder = snapshot_download({_literal(facts.repository)})")
    else:
        lines.append('folder = "."')
    if facts.base is None:
        lines.append('model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")')
        lines.append("tokenizer = AutoTokenizer.from_pretrained(folder)")
    else:
        lines = _adapter_lines(lines, facts.base, facts.quant, DTYPES[row["precision"]])
    return "\n".join(
        [
            *lines,
            'ids = tokenizer("The", return_tensors="pt").input_ids.to(model.device)',
            "print(tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=20)[0]))",
        ]
    )


def _adapter_lines(lines: list[str], base: PlainBase, quant: QuantSpec | None, dtype: str) -> list[str]:
    """The lines with those that load the base, in the precision in which it was measured, and the adapter."""
    named = f'f"{{folder}}/{BESIDE}"' if base.name is None else _literal(base.name)
    revision = f", revision={_literal(base.revision)}" if base.revision else ""
    tokenizer = f"{_literal(base.tokenizer)}" if base.tokenizer else f"base{revision}"
    settings = ""
    lines = ["import torch", "from peft import PeftModel", *lines, f"base = {named}"]
    if quant is not None:
        lines = [line.replace("AutoTokenizer", "AutoTokenizer, BitsAndBytesConfig", 1) for line in lines]
        how = (
            "load_in_8bit=True"
            if quant.kind == "int8"
            else f'load_in_4bit=True, bnb_4bit_quant_type="{quant.kind}", bnb_4bit_use_double_quant='
            f"{quant.double_quant}, bnb_4bit_compute_dtype=torch.{dtype}"
        )
        lines.append(f"quantisation = BitsAndBytesConfig({how})")
        settings = ", quantization_config=quantisation"
    return [
        *lines,
        f"model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype=torch.{dtype}{settings})",
        "model = PeftModel.from_pretrained(model, folder)",
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
    ]


def _literal(text: str) -> str:
    """The text as Python writes it."""
    return json.dumps(text, ensure_ascii=False)


def _block(source: str) -> str:
    fence = "`" * max(3, 1 + _longest_run(source))
    return f"{fence}python\n{source}\n{fence}"


def escape(text: object) -> str:
    """A name as Markdown shows it, without markup of its own."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(one_line, quote=False))


def code(text: object) -> str:
    """A name as a piece of code in Markdown, whatever backticks are in it."""
    one_line = " ".join(str(text).split())
    fence, space = "`" * (1 + _longest_run(one_line)), " " if "`" in one_line else ""
    return f"{fence}{space}{one_line}{space}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def change(row: Mapping[str, Any], value: str, stem: str) -> str:
    """A change of the results with its interval, or that there is none."""
    if row[f"{stem}_lo"] is None:
        return f"{row[value]:+.4f} (too few documents for an interval)"
    return f"{row[value]:+.4f} ({row[f'{stem}_lo']:+.4f} to {row[f'{stem}_hi']:+.4f})"
