"""Collects how far each cell moved its base: `geometry.parquet`, and numbers of its row of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftodyssey.measures.geometry import compute
from peftodyssey.measures.geometry.table import FILE
from peftodyssey.store import manifest, parquet
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of the finished cells that were measured, in their order, and columns of the results."""
    rows = [
        {**row, "recipe": cell["recipe"]}
        for cell, folder in run.done_entries("geometry")
        if run.is_complete(folder)
        for row in _of_cell(run, folder)
    ]
    return Collected({FILE: rows}, {cell["number"]: _summary(run, name) for cell, name in run.done_entries("geometry")})


def _summary(run: StoredRun, folder: str) -> Row:
    """Columns of the results; none of a cell where a weight that was updated could not be measured."""
    written = manifest.read(run.folder / folder)
    if written is None or written["facts"]["refused"]:
        return {}
    facts = written["facts"]
    layers = f"{len(facts['layers'])} of {facts['layers_of']}"
    return {**compute.summarize(_of_cell(run, folder), facts["base_norm"]), "decomposed_layers": layers}


def _of_cell(run: StoredRun, folder: str) -> list[Row]:
    rows: list[Row] = parquet.read(run.folder / folder / FILE).to_pylist()
    return rows
