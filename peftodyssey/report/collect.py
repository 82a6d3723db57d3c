"""Collects the tables of a run from plans, manifests and columns.

Everything is computed again from the store, so an interrupted and resumed run collects the same values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from peftodyssey.report import (
    collect_correlation,
    collect_geometry,
    collect_sensitivity,
    collect_similarity,
    collect_tasks,
    collect_tokens,
    collect_transfer,
    collect_wise_ft,
)
from peftodyssey.stats import degradation, lr_selection
from peftodyssey.stats.degradation import finite
from peftodyssey.store import layout, manifest, parquet, plans, tables

Row = dict[str, Any]
Paths = Mapping[str, Any]
Reader = Callable[[str, str], np.ndarray]  # (folder of an index or a score, column) -> its values
SORT_COLUMNS = (
    "model",
    "domain",
    "newline",
    "pretrain_tokens",
    "revision",
    "method",
    "rank",
    "label",
    "lr",
    "seed",
    "recipe",
    "cell",
)
FACTS = (
    "tokens",
    "steps",
    "trainable_params",
    "engine",
    "multi_lora_size",
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "planned_memory_bytes",
    "stopped_at_step",
)
COLUMN_FOLDERS = ("index", "before", "quantised", "after")
GENERAL = {
    "general_nll_before": "nll_before",
    "general_nll_after": "nll_after",
    "forgetting": "delta_nll",
    "forgetting_lo": "delta_lo",
    "forgetting_hi": "delta_hi",
    "general_documents": "documents",
}


def collect(folder: Path) -> pa.Table:
    """Write the tables of the run in `folder`; returns the results, one row per cell of its plans."""
    cells = plans.cells(folder)
    read = functools.cache(functools.partial(_column, folder))
    rows = [_row(folder, cell, read) for cell in cells]
    done = [cell for cell, row in zip(cells, rows, strict=True) if row["status"] == "done"]
    collect_tokens.write(folder, [cell for cell in done if "tokens" in cell["measure"]])
    collect_transfer.write(folder, [cell for cell in done if "transfer" in cell["measure"]])
    collect_wise_ft.write(folder, cells, lambda texts: _compare(texts, read))
    collect_geometry.write(folder, done)
    task_columns = collect_tasks.write(folder, cells)
    selected = _with_selection(rows, cells)
    collect_sensitivity.write(folder, selected, cells, read)
    rows = sorted(({**row, **task_columns.get((row["cell"], row["recipe"]), {})} for row in selected), key=sort_key)
    collect_correlation.write(folder, rows, collect_similarity.write(folder, cells))
    parquet.write_rows(folder / layout.LEARNING_CURVES, _learning_curves(folder, cells), tables.LEARNING_CURVES)
    return parquet.write_rows(folder / layout.RESULTS, rows, tables.RESULTS)


def sort_key(row: Mapping[str, Any]) -> tuple[tuple[bool, Any], ...]:
    """Order of the rows of every table; missing values come first."""
    return tuple(
        (row.get(name) is not None, row.get(name) if row.get(name) is not None else 0) for name in SORT_COLUMNS
    )


def _row(folder: Path, cell: Mapping[str, Any], read: Reader) -> Row:
    entry = manifest.read(folder / cell["folder"])
    facts = (entry or {}).get("facts") or {}
    row = {name: value for name, value in cell["coordinates"].items() if name in tables.RESULTS}
    row |= {name: facts[name] for name in FACTS if facts.get(name) is not None}
    row |= {"cell": cell["cell"], "recipe": cell["recipe"], "versions": _versions(facts.get("versions"))}
    if entry and all(manifest.read(folder / name) is not None for name in _columns(cell)):
        return {**row, "status": "done", **_measures(cell["scores"], read), **collect_geometry.of_cell(folder, cell)}
    return {**row, **_why_not_done(folder, cell)}


def _versions(versions: object) -> str | None:
    if isinstance(versions, Mapping):
        return ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return None if versions is None else str(versions)


def _columns(cell: Mapping[str, Any]) -> list[str]:
    """Folders of the indexes and columns that a cell's row is computed from."""
    scores = cell["scores"]
    texts = (scores.get("test"), scores.get("valid"), *(scores.get("general") or ()))
    return [paths[key] for paths in texts if paths for key in COLUMN_FOLDERS if paths.get(key)]


def _why_not_done(folder: Path, cell: Mapping[str, Any]) -> Row:
    """Status and reason of an incomplete cell: its own failure, or that of a column or text it depends on."""
    train = [cell["train_index"]] if cell.get("train_index") else []
    for name in (cell["folder"], *train, *_columns(cell)):
        if manifest.read(folder / name) is None and (failure := manifest.failure(folder / name)):
            where = f" ({failure['where']})" if failure.get("where") else ""
            return {"status": "failed", "reason": f"{failure['reason']}{where}"}
    if stop := manifest.stop(folder / cell["folder"]):
        return {"status": "stopped", "reason": stop["reason"]}
    return {"status": "pending"}


def _column(folder: Path, name: str, column: str) -> np.ndarray:
    """`nll_nats` of a score as float64, or a column of an index."""
    if column == "nll_nats":
        return collect_tokens.nll_column(folder / name)
    return parquet.read(folder / name / layout.INDEX)[column].to_numpy()


def _measures(scores: Mapping[str, Any], read: Reader) -> Row:
    test, valid, general = scores["test"], scores.get("valid"), scores.get("general")
    change = _compare([test], read)
    row = {name: change[name] for name in tables.RESULTS if name in change and name != "tokens"}
    row |= {"test_tokens": change["tokens"], "test_documents": change["documents"]}
    notes = [change["note"]]
    if test.get("quantised"):
        row["nll_quantised"] = _mean_nll(test["quantised"], read)
    if valid:
        row |= {f"valid_nll_{stage}": _mean_nll(valid[stage], read) for stage in ("before", "after")}
    if general:
        change = _compare(general, read)
        row |= {name: change[column] for name, column in GENERAL.items()}
        notes.append(change["note"] and f"general text: {change['note']}")
    return {**row, "reason": "; ".join(filter(None, notes)) or None}


def _mean_nll(name: str, read: Reader) -> float | None:
    return finite(degradation.mean_nats(read(name, "nll_nats")))


def _compare(texts: Sequence[Paths], read: Reader) -> Row:
    """`degradation.compare` over pooled texts, whose documents stay distinct; not finite becomes None."""
    documents, first = [], 0
    for text in texts:
        numbers = read(text["index"], "document").astype(np.int64) + first
        documents.append(numbers)
        first = int(numbers.max(initial=first - 1)) + 1
    before, after = (np.concatenate([read(text[stage], "nll_nats") for text in texts]) for stage in ("before", "after"))
    token_bytes = np.concatenate([read(text["index"], "bytes") for text in texts])
    change = degradation.compare(before, after, np.concatenate(documents), token_bytes)
    return {name: finite(value) if isinstance(value, float) else value for name, value in change.items()}


def _with_selection(rows: Sequence[Row], cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows with `selected` and `lr_edge`: in a tuned group by validation; a finished cell without a group always is."""
    groups = [cell["group"] for cell in cells]
    done = [row["status"] == "done" for row in rows]
    candidates = [
        lr_selection.Candidate(group, row.get("lr"), row.get("valid_nll_after") if finished else None)
        for group, row, finished in zip(groups, rows, done, strict=True)
    ]
    return [
        {**row, "selected": choice.selected or (finished and groups.count(group) == 1), "lr_edge": choice.edge}
        for row, choice, group, finished in zip(rows, lr_selection.select(candidates), groups, done, strict=True)
    ]


def _learning_curves(folder: Path, cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for name in sorted({cell["folder"] for cell in cells}):
        path = folder / name / layout.LEARNING_CURVES
        if manifest.read(folder / name) is not None and path.is_file():
            rows += parquet.read(path).select(list(tables.LEARNING_CURVES)).to_pylist()
    return sorted(rows, key=lambda row: (row["cell"], row["tokens_seen"], row["corpus"], row["split"]))
