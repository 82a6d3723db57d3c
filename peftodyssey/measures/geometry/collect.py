"""Collects how far each cell moved its base: `geometry.parquet`, and numbers of its row of results."""

from __future__ import annotations

from typing import Any

from peftodyssey.measures.geometry import compute
from peftodyssey.measures.geometry.table import FILE
from peftodyssey.store import manifest, parquet
from peftodyssey.store.stored_run import StoredRun

Row = dict[str, Any]


def rows(run: StoredRun) -> list[Row]:
    """The rows of `geometry.parquet`: of the finished cells that were measured, in their order."""
    return [
        {**row, "recipe": cell["recipe"]}
        for cell, folder in run.done_entries("geometry")
        if run.is_complete(folder)
        for row in _of_cell(run, folder)
    ]


def columns(run: StoredRun) -> dict[int, Row]:
    """Columns of the rows of results; none of a cell where a weight that was updated could not be measured."""
    return {cell["number"]: _summary(run, folder) for cell, folder in run.done_entries("geometry")}


def _summary(run: StoredRun, folder: str) -> Row:
    written = manifest.read(run.folder / folder)
    if written is None or written["facts"]["refused"]:
        return {}
    facts = written["facts"]
    layers = f"{len(facts['layers'])} of {facts['layers_of']}"
    return {**compute.summarize(_of_cell(run, folder), facts["base_norm"]), "decomposed_layers": layers}


def _of_cell(run: StoredRun, folder: str) -> list[Row]:
    return parquet.read(run.folder / folder / FILE).to_pylist()
