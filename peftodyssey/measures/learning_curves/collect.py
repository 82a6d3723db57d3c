"""Collects `learning_curves.parquet`: the evaluations of every finished cell, which lie in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftodyssey.store import layout, parquet
from peftodyssey.store import tables as store
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The evaluations of the cells that are finished, by cell, tokens seen and text."""
    found: list[Row] = []
    for name in sorted({cell["folder"] for cell in run.cells}):
        path = run.folder / name / layout.LEARNING_CURVES
        if run.is_complete(name) and path.is_file():
            found += parquet.read(path).select(list(store.LEARNING_CURVES)).to_pylist()
    found.sort(key=lambda row: (row["cell"], row["tokens_seen"], row["corpus"], row["split"]))
    return Collected({layout.LEARNING_CURVES: found})
