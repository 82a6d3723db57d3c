"""The store as tables: `results.parquet`, `learning_curves.parquet`, those of `collect_tokens` and `geometry.parquet`.

Everything is computed again from plans, manifests and NLL columns, so a killed and resumed run collects the same
values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from peftodyssey.store import layout, manifest, parquet, plans, tables

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Row = dict[str, Any]
Paths = Mapping[str, Any]
Reader = Callable[[str, str], "np.ndarray"]  # (folder of an index or a score, column) -> its values
ORDER = (
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


def collect(folder: Path) -> pa.Table:
    """Write the tables of the run in `folder`; returns the results, one row per cell of its plans."""
    cells = plans.cells(folder)
    read = functools.cache(functools.partial(_column, folder))
    rows = [_row(folder, cell, read) for cell in cells]
    done = [cell for cell, row in zip(cells, rows, strict=True) if row["status"] == "done"]
    collect_tokens.write(folder, [cell for cell in done if "tokens" in cell["measure"]])
    collect_transfer.write(folder, [cell for cell in done if "transfer" in cell["measure"]])
    curves = collect_wise_ft.rows(folder, cells, lambda texts: _compared(texts, read))
    parquet.write_rows(folder / layout.WISE_FT, curves, tables.WISE_FT)
    collect_geometry.write(folder, done)
    answered = collect_tasks.write(folder, cells)
    selected = _with_selection(rows, cells)
    collect_sensitivity.write(folder, selected, cells, read)
    rows = [{**row, **answered.get((row["cell"], row["recipe"]), {})} for row in selected]
    rows = sorted(rows, key=sort_key)
    collect_correlation.write(folder, rows, collect_similarity.write(folder, cells))
    parquet.write_rows(folder / layout.LEARNING_CURVES, _points(folder, cells), tables.LEARNING_CURVES)
    return parquet.write_rows(folder / layout.RESULTS, rows, tables.RESULTS)


def sort_key(row: Mapping[str, Any]) -> tuple[tuple[bool, Any], ...]:
    """Order of rows in every table; missing values come first."""
    return tuple((row.get(name) is not None, row.get(name) if row.get(name) is not None else 0) for name in ORDER)


def _row(folder: Path, cell: Mapping[str, Any], read: Reader) -> Row:
    done = manifest.read(folder / cell["folder"])
    facts = (done or {}).get("facts") or {}
    row = {name: value for name, value in cell["coordinates"].items() if name in tables.RESULTS}
    row |= {name: facts[name] for name in FACTS if facts.get(name) is not None}
    row |= {"cell": cell["cell"], "recipe": cell["recipe"], "versions": _versions(facts.get("versions"))}
    if done and all(_whole(folder, paths) for paths in _scored(cell)):
        return {**row, "status": "done", **_measured(cell["scores"], read), **collect_geometry.of_cell(folder, cell)}
    return {**row, **_trouble(folder, cell)}


def _versions(found: object) -> str | None:
    if isinstance(found, Mapping):
        return ", ".join(f"{name} {found[name]}" for name in sorted(found))
    return None if found is None else str(found)


def _scored(cell: Mapping[str, Any]) -> list[Paths]:
    scores = cell["scores"]
    return [paths for paths in (scores.get("test"), scores.get("valid"), *(scores.get("general") or ())) if paths]


def _whole(folder: Path, paths: Paths) -> bool:
    return all(
        manifest.read(folder / paths[key]) is not None
        for key in ("index", "before", "quantised", "after")
        if paths.get(key)
    )


def _trouble(folder: Path, cell: Mapping[str, Any]) -> Row:
    """Status and reason of a cell that is not whole: its own failure, or that of a column or text it stands on."""
    needed = [
        paths[key] for paths in _scored(cell) for key in ("index", "before", "quantised", "after") if paths.get(key)
    ]
    if cell.get("train_index"):
        needed.insert(0, cell["train_index"])
    for name in (cell["folder"], *needed):
        if manifest.read(folder / name) is None and (failure := manifest.failure(folder / name)):
            where = f" ({failure['where']})" if failure.get("where") else ""
            return {"status": "failed", "reason": f"{failure['reason']}{where}"}
    if stop := manifest.stop(folder / cell["folder"]):
        return {"status": "stopped", "reason": stop["reason"]}
    return {"status": "pending"}


def _column(folder: Path, name: str, column: str) -> np.ndarray:
    """One column of a table of evidence, float64 for NLL; an index's `document`, or `bytes`."""
    import numpy as np

    if column == "nll_nats":
        return parquet.read_nll(folder / name)[0].astype(np.float64)
    return parquet.read(folder / name / layout.INDEX)[column].to_numpy()


def _measured(scores: Mapping[str, Any], read: Reader) -> Row:
    row, note = _test(scores["test"], read)
    notes = [note]
    if scores.get("valid"):
        row["valid_nll_before"] = _finite(degradation.mean_nats(read(scores["valid"]["before"], "nll_nats")))
        row["valid_nll_after"] = _finite(degradation.mean_nats(read(scores["valid"]["after"], "nll_nats")))
    if scores.get("general"):
        general, note = _general(scores["general"], read)
        row |= general
        notes.append(note and f"general text: {note}")
    return {**row, "reason": "; ".join(filter(None, notes)) or None}


def _test(paths: Paths, read: Reader) -> tuple[Row, str]:
    found = _compared([paths], read)
    row = {name: found[name] for name in tables.RESULTS if name in found and name != "tokens"}
    if paths.get("quantised"):
        row["nll_quantised"] = _finite(degradation.mean_nats(read(paths["quantised"], "nll_nats")))
    return {**row, "test_tokens": found["tokens"], "test_documents": found["documents"]}, found["note"]


def _general(texts: Sequence[Paths], read: Reader) -> tuple[Row, str]:
    found = _compared(texts, read)
    row = {
        "general_nll_before": found["nll_before"],
        "general_nll_after": found["nll_after"],
        "forgetting": found["delta_nll"],
        "forgetting_lo": found["delta_lo"],
        "forgetting_hi": found["delta_hi"],
        "general_documents": found["documents"],
    }
    return row, found["note"]


def _compared(texts: Sequence[Paths], read: Reader) -> Row:
    """`degradation.compare` over texts pooled, documents of different texts kept apart; not finite becomes None."""
    import numpy as np

    documents, first = [], 0
    for text in texts:
        numbers = read(text["index"], "document").astype(np.int64) + first
        documents.append(numbers)
        first = int(numbers.max(initial=first - 1)) + 1
    before, after, document, token_bytes = (
        np.concatenate(parts)
        for parts in (
            [read(text["before"], "nll_nats") for text in texts],
            [read(text["after"], "nll_nats") for text in texts],
            documents,
            [read(text["index"], "bytes") for text in texts],
        )
    )
    found = degradation.compare(before, after, document, token_bytes)
    return {name: _finite(value) if isinstance(value, float) else value for name, value in found.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _with_selection(rows: Sequence[Row], cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows with `selected` and `lr_edge`: within a tuned group by validation, a finished cell alone in its group
    always.
    """
    groups = [cell["group"] for cell in cells]
    done = [row["status"] == "done" for row in rows]
    candidates = [
        lr_selection.Candidate(group, row.get("lr"), row.get("valid_nll_after") if fit else None)
        for group, row, fit in zip(groups, rows, done, strict=True)
    ]
    return [
        {**row, "selected": choice.selected or (fit and groups.count(group) == 1), "lr_edge": choice.edge}
        for row, choice, group, fit in zip(rows, lr_selection.select(candidates), groups, done, strict=True)
    ]


def _points(folder: Path, cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for name in sorted({cell["folder"] for cell in cells}):
        path = folder / name / layout.LEARNING_CURVES
        if manifest.read(folder / name) is not None and path.is_file():
            rows += parquet.read(path).select(list(tables.LEARNING_CURVES)).to_pylist()
    return sorted(rows, key=lambda row: (row["cell"], row["tokens_seen"], row["corpus"], row["split"]))
