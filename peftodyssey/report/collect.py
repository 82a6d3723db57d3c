"""Collects the tables of a run from plans, manifests and columns.

Everything is computed again from the store, so an interrupted and resumed run collects the same values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.stats import lr_selection
from peftodyssey.store import layout, manifest, parquet, table_record, tables
from peftodyssey.store.collected import RESULTS, Collected
from peftodyssey.store.stored_run import Cell, StoredRun, stored_run

Row = dict[str, Any]


class CollectMeasure(tables.HasTables, Protocol):
    """A measure as the collection sees it; measures stand in the order in which they may read each other."""

    @property
    def spec(self) -> MeasureSpec: ...

    @property
    def reads(self) -> Sequence[str]: ...

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Collected: ...


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


def collect(folder: Path, measures: Sequence[CollectMeasure], scoring: str | None = None) -> list[Row]:
    """Write the tables of the run in `folder`; returns the results, one row per cell of its plans.

    The tables of the newest scoring are in the folder itself, those of another `scoring` in a folder of that name below
    it. Measures that read the results come after those that only add columns to them.
    """
    run = stored_run(folder, lambda cell: _is_done(folder, cell), scoring)
    out = layout.tables_folder(folder, scoring)
    done = {cell["number"] for cell in run.done}
    rows = [_row(folder, cell, cell["number"] in done) for cell in run.cells]
    collected: dict[str, Sequence[Mapping[str, Any]]] = {}
    for measure in (one for one in measures if RESULTS not in one.reads):
        found = _declared(measure, measure.collect(run, collected))
        collected |= found.tables
        rows = [_joined(row, found.columns.get(number, {})) for number, row in enumerate(rows)]
    rows = _with_selection(rows, run.cells)
    collected[layout.RESULTS] = rows
    for measure in (one for one in measures if RESULTS in one.reads):
        collected |= _declared(measure, measure.collect(run, collected)).tables
    rows = sorted(rows, key=tables.sort_key)
    collected[layout.RESULTS] = rows
    written = {
        name: parquet.write_rows(out / name, collected.get(name, ()), columns)
        for name, columns in tables.tables_of(measures).items()
    }
    table_record.write(out, folder, written)
    return written[layout.RESULTS].to_pylist()


def _declared(measure: CollectMeasure, found: Collected) -> Collected:
    """What a measure collected; AssertionError where it did not declare that: it would replace what another returns."""
    allowed = set() if RESULTS in measure.reads else {*measure.columns, "reason"}
    columns = {name for row in found.columns.values() for name in row} - allowed
    tables = set(found.tables) - set(measure.tables)
    name = measure.spec.name
    assert not columns, f"measure {name!r} returns columns that it does not declare: {sorted(columns)}"
    assert not tables, f"measure {name!r} returns tables that it does not declare: {sorted(tables)}"
    return found


def _joined(row: Row, columns: Mapping[str, Any]) -> Row:
    """A row with the columns of a measure; reasons are joined."""
    reasons = [text for text in (row.get("reason"), columns.get("reason")) if text]
    return {**row, **columns, "reason": "; ".join(reasons) or None}


def _is_done(folder: Path, cell: Cell) -> bool:
    names = (cell["folder"], *_columns(cell))
    return all(manifest.read(folder / name) is not None for name in names)


def _row(folder: Path, cell: Cell, is_done: bool) -> Row:
    facts = (manifest.read(folder / cell["folder"]) or {}).get("facts") or {}
    row = {name: value for name, value in cell["coordinates"].items() if name in tables.RESULTS}
    row |= {name: facts[name] for name in FACTS if facts.get(name) is not None}
    row |= {"cell": cell["cell"], "recipe": cell["recipe"], "versions": _versions(facts.get("versions"))}
    row |= {"scoring": cell.get("scoring"), "setting": cell.get("setting")}
    return {**row, **({"status": "done"} if is_done else _why_not_done(folder, cell))}


def _versions(versions: object) -> str | None:
    if isinstance(versions, Mapping):
        return ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return None if versions is None else str(versions)


def _columns(cell: Cell) -> list[str]:
    """Folders of the indexes and columns that a cell's row is computed from."""
    scores = cell["scores"]
    texts = (scores.get("test"), scores.get("valid"), *(scores.get("general") or ()))
    return [paths[key] for paths in texts if paths for key in COLUMN_FOLDERS if paths.get(key)]


def _why_not_done(folder: Path, cell: Cell) -> Row:
    """Status and reason of an incomplete cell: what is damaged or failed of it, or of a text or column it needs."""
    train = [cell["train_index"]] if cell.get("train_index") else []
    names = (cell["folder"], *train, *_columns(cell))
    for name in names:
        if wrong := manifest.damage(folder / name):
            return {"status": "damaged", "reason": f"{name}: {manifest.in_words(wrong)}"}
    for name in names:
        if manifest.read(folder / name) is None and (failure := manifest.failure(folder / name)):
            where = f" ({failure['where']})" if failure.get("where") else ""
            return {"status": "failed", "reason": f"{failure['reason']}{where}"}
    if stop := manifest.stop(folder / cell["folder"]):
        return {"status": "stopped", "reason": stop["reason"]}
    return {"status": "pending"}


def _with_selection(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Row]:
    """Rows with `selected` and `lr_edge`: in a tuned group by validation; at the only rate every finished cell."""
    rates: dict[str, set[float | None]] = {}
    for row, cell in zip(rows, cells, strict=True):
        rates.setdefault(cell["group"], set()).add(row.get("lr"))
    candidates = [
        lr_selection.Candidate(cell["group"], row.get("lr"), row["seed"], _valid_nll(row, cell))
        for row, cell in zip(rows, cells, strict=True)
    ]
    return [
        {
            **row,
            "selected": choice.selected or (row["status"] == "done" and len(rates[cell["group"]]) == 1),
            "lr_edge": choice.edge,
        }
        for row, cell, choice in zip(rows, cells, lr_selection.select(candidates), strict=True)
    ]


def _valid_nll(row: Row, cell: Cell) -> float | None:
    """The validation NLL by which rates are compared: not a number where training failed, None where it is unknown."""
    if row["status"] == "failed":
        return math.nan
    if row["status"] != "done" or not cell["scores"].get("valid"):
        return None
    value: float | None = row.get("valid_nll_after")
    return math.nan if value is None else value
