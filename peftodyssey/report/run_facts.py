"""What a run was: recipe, bases, texts, rates, seeds, hardware, versions, time and memory, each as a line of words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.display.chart_style import unique
from peftodyssey.display.counts import format_bytes, format_count
from peftodyssey.display.durations import format_seconds
from peftodyssey.display.result_text import Row, format_lr, grouped, method_name, text_name
from peftodyssey.display.sources import ReportSources
from peftodyssey.store import layout, manifest

SHOWN_VERSIONS = ("peftodyssey", "torch", "transformers", "peft", "python")
MAX_QUESTION = 220  # characters


def question(sources: ReportSources) -> str:
    """The question of the recipe: the sentences of its opening comment up to the last that asks one."""
    for folder in sources.runs:
        path = folder / layout.RECIPE
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        comment = re.match(r"(#.*\n)*", text)
        words = " ".join(line.lstrip("# ").strip() for line in comment.group().splitlines()) if comment else ""
        asked = re.match(r"[^#]*\?", words)
        if asked and len(asked.group()) <= MAX_QUESTION:
            return asked.group()
    methods = unique(method_name(row).split(" r=")[0] for row in sources.rows)
    texts = unique(map(text_name, sources.rows))
    return f"What do {_listed(methods)} learn and forget on {_listed(texts)}?" if methods else "No cell was planned."


def facts(sources: ReportSources) -> list[dict[str, str]]:
    """The lines of each run, by their names; `run` is its label where there are several."""
    return [_facts(sources, folder) for folder in sources.runs]


def _facts(sources: ReportSources, folder: Path) -> dict[str, str]:
    rows = sources.rows_of(folder)
    done = [row for row in rows if row["status"] == "done"]
    lines = {
        "run": sources.runs[folder],
        "recipe": ", ".join(unique(row["recipe"] for row in rows)),
        "base": ", ".join(unique(f"{row['model']}{_at(row)}" for row in rows)),
        "texts": "; ".join(unique(map(_text, done))),
        "general text": _general(sources, folder, done),
        "training": "; ".join(unique(_training(row) for row in done)),
        "rates tried": "; ".join(_rates(rows)),
        "seeds": ", ".join(map(str, unique(row["seed"] for row in rows))),
        "hardware": _hardware(sources, folder),
        "time": _time(sources, folder, done),
        "peak memory": _memory(done),
        "versions": "; ".join(unique(_versions(row["versions"]) for row in done if row.get("versions"))),
    }
    return {name: text for name, text in lines.items() if text}


def _at(row: Row) -> str:
    return f" ({row['revision']})" if row.get("revision") else ""


def _text(row: Row) -> str:
    return f"{text_name(row)}: {format_count(row['test_tokens'])} tokens of {row['test_documents']} documents scored"


def _general(sources: ReportSources, folder: Path, done: Sequence[Row]) -> str:
    names = unique(t["name"] for c in sources.cells_of(folder).values() for t in c["scores"].get("general") or ())
    counts = unique(row["general_documents"] for row in done if row.get("general_documents"))
    return f"{', '.join(names)}: {counts[0]} documents scored" if names and counts else ", ".join(names)


def _training(row: Row) -> str:
    return f"{format_count(row['tokens'])} tokens in {row['steps']} steps, {row['precision']}"


def _rates(rows: Sequence[Row]) -> list[str]:
    return [
        f"{method}: {', '.join(unique(format_lr(row['lr']) for row in sorted(own, key=lambda r: r['lr'] or 0.0)))}"
        for method, own in grouped((r for r in rows if r["lr"] is not None), method_name).items()
    ]


def _hardware(sources: ReportSources, folder: Path) -> str:
    path = folder / layout.TIMES
    device = json.loads(path.read_text(encoding="utf-8")).get("device") if path.is_file() else None
    if device:
        return str(device)
    manifests = (manifest.read(folder / cell["folder"]) for cell in sources.cells_of(folder).values())
    return ", ".join(
        unique(str(found["facts"]["device"]) for found in manifests if found and "device" in found["facts"])
    )


def _time(sources: ReportSources, folder: Path, done: Sequence[Row]) -> str:
    """Training and scoring; cells that were trained together share their time."""
    training = sum((row["seconds"] or 0.0) / (row["multi_lora_size"] or 1) for row in done)
    columns = {
        text[stage]
        for cell in sources.cells_of(folder).values()
        for text in _scored_texts(cell)
        for stage in ("before", "quantised", "after")
        if text.get(stage)
    }
    found = (manifest.read(folder / name) for name in columns)
    scoring = sum((one["facts"].get("seconds") or 0.0) for one in found if one)
    parts = [f"{format_seconds(training)} training"] if training else []
    return ", ".join(parts + ([f"{format_seconds(scoring)} scoring"] if scoring else []))


def _scored_texts(cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    scores = cell["scores"]
    return [text for text in (scores["test"], scores.get("valid"), *(scores.get("general") or ())) if text]


def _memory(done: Sequence[Row]) -> str:
    measured = [row["peak_memory_bytes"] for row in done if row.get("peak_memory_bytes")]
    return f"{format_bytes(max(measured))} at most" if measured else ""


def _versions(text: str) -> str:
    known = dict(part.rsplit(" ", 1) for part in text.split(", ") if " " in part)
    return ", ".join(f"{name} {known[name]}" for name in SHOWN_VERSIONS if name in known)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
