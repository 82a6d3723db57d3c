"""Collects `learning_curves.parquet`: the evaluations of every finished cell, which lie in its folder."""

from __future__ import annotations

from typing import Any

from peftodyssey.store import layout, parquet, tables
from peftodyssey.store.stored_run import StoredRun


def rows(run: StoredRun) -> list[dict[str, Any]]:
    """The evaluations of the cells that are finished, by cell, tokens seen and text."""
    found: list[dict[str, Any]] = []
    for name in sorted({cell["folder"] for cell in run.cells}):
        path = run.folder / name / layout.LEARNING_CURVES
        if run.is_complete(name) and path.is_file():
            found += parquet.read(path).select(list(tables.LEARNING_CURVES)).to_pylist()
    return sorted(found, key=lambda row: (row["cell"], row["tokens_seen"], row["corpus"], row["split"]))
