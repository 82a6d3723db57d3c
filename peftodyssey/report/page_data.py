"""What the page computes with: cells, sums over clusters, words and token losses, as one JSON value.

The page's script reads it; it is data, never code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.display.result_text import Row, base_name, method_name, selected_cells, text_name
from peftodyssey.display.sources import ReportSources
from peftodyssey.report import reader_data

CLUSTERS_TABLE, WORDS_TABLE = "cluster_sums.parquet", "words.parquet"
MAX_CELLS = 60  # whose words and tokens a page holds, of the selected learning rates; every cell is in the tables
COLUMNS = (
    *("cell", "label", "method", "recipe", "lr", "seed", "budget", "status", "reason", "selected", "lr_edge"),
    *("nll_before", "nll_quantised", "nll_after", "delta_nll", "delta_lo", "delta_hi"),
    *("general_nll_before", "general_nll_after", "forgetting", "forgetting_lo", "forgetting_hi"),
    *("seconds", "tokens_per_second", "peak_memory_bytes", "planned_memory_bytes", "trainable_params", "tokens"),
    *("multi_lora_size", "pretrain_tokens", "rank"),
)
MICRO = 6  # decimals of sums over clusters, in nats
CellKey = tuple[str, str, str]  # run, recipe, cell


def page_data(sources: ReportSources, with_text: bool = True) -> dict[str, Any]:
    """The JSON value of the page; without `with_text` it holds no word of any document."""
    rows = sources.rows
    number = {key_of(row): i for i, row in enumerate(rows)}
    shown = shown_cells(rows)
    data: dict[str, Any] = {
        "cells": [_cell(row) for row in rows],
        "sums": _sums(sources, number),
        "words": {},
        "texts": [],
    }
    if with_text:
        text_of = {folder: reader_data.text_reader(folder) for folder in sources.runs}
        data["words"] = _words(sources, number, shown, text_of)
        data["texts"] = reader_data.texts(sources, number, shown, text_of)
    return data


def to_json(data: Any) -> str:
    """JSON that may stand in a `<script>` element: no `<`, `>` or `&`, and no separators of lines."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def key_of(row: Row) -> CellKey:
    """Identifies the cell of a row."""
    return (row.get("run") or "", row["recipe"], row["cell"])


def shown_cells(rows: Sequence[Row]) -> set[CellKey]:
    """The selected cells whose words and tokens the page holds, the first seeds first."""
    chosen = sorted(selected_cells(rows), key=lambda row: row["seed"])
    return {key_of(row) for row in chosen[:MAX_CELLS]}


def _cell(row: Row) -> dict[str, Any]:
    cell = {name: value for name in COLUMNS if (value := row.get(name)) is not None}
    return cell | {"name": method_name(row), "text": text_name(row), "base": base_name(row), "run": row.get("run", "")}


def _sums(sources: ReportSources, number: Mapping[CellKey, int]) -> list[dict[str, Any]]:
    """Each text once: tokens of its clusters, the quantile, and losses summed over them, before and after, by cell."""
    texts: dict[tuple[str, ...], dict[str, Any]] = {}
    columns: dict[tuple[int, str], list[Row]] = {}
    for row in sources.table(CLUSTERS_TABLE):
        if key_of(row) in number:
            columns.setdefault((number[key_of(row)], row["split"]), []).append(row)
    for (cell, split), rows in columns.items():
        tokens = [row["tokens"] for row in rows]
        key = (str(rows[0].get("run") or ""), split, rows[0]["text"], json.dumps(tokens))
        text = texts.setdefault(
            key, {"split": split, "tokens": tokens, "t": rows[0]["quantile"], "before": {}, "after": {}}
        )
        for stage in ("before", "after"):
            text[stage][cell] = [round(row[f"nll_{stage}"], MICRO) for row in rows]
    return [_with_each_before_once(text) for text in texts.values()]


def _with_each_before_once(text: dict[str, Any]) -> dict[str, Any]:
    """The losses of a base are those of all its cells."""
    bases: list[list[float]] = []
    of_cell = {}
    for cell, sums in text["before"].items():
        if sums not in bases:
            bases.append(sums)
        of_cell[cell] = bases.index(sums)
    return {**text, "bases": bases, "before": of_cell}


def _words(
    sources: ReportSources, number: Mapping[CellKey, int], shown: set[CellKey], text_of: Mapping[Any, Any]
) -> dict[str, Any]:
    """`{cell: {split: {direction: [word, ...]}}}`, each word with its numbers and its example in context."""
    found: dict[str, Any] = {}
    for folder in sources.runs:
        for row in sources.table_of(folder, WORDS_TABLE):
            if key_of(row) not in shown:
                continue
            lists = found.setdefault(str(number[key_of(row)]), {}).setdefault(row["split"], {"worse": [], "better": []})
            context = reader_data.context(text_of[folder](row["text"]), row["document"], row["position"])
            values = [row[name] for name in ("occurrences", "documents", "tokens")]
            changes = [_rounded(row[n]) for n in ("sum_nats", "rise_nats", "fall_nats", "nll_before", "nll_after")]
            ends = [_rounded(row[name]) for name in ("change", "change_lo", "change_hi")]
            place = [row["text"], row["document"], row["position"]]
            lists[row["direction"]].append([row["word"], *values, *changes, *ends, *place, *context])
    return found


def _rounded(value: float | None, digits: int = 5) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _plain(value: Any) -> Any:
    """numpy scalars, which json cannot encode."""
    return value.item()
