"""Geometry of each cell's update, as a table and as three columns of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.stats import geometry
from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]


def of_cell(folder: Path, cell: Mapping[str, Any]) -> Row:
    """The columns of a cell's row; none where its geometry was not asked for, is not there, or lacks a weight that
    moved.
    """
    done = _done(folder, cell)
    if not done or done["facts"]["refused"]:
        return {}
    facts = done["facts"]
    return {
        **geometry.summarize(_rows(folder, cell), facts["base_norm"]),
        "decomposed_layers": f"{len(facts['layers'])} of {facts['layers_of']}",
    }


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Write `geometry.parquet` of `cells`, finished entries of plans, in their order."""
    rows = [{**row, "recipe": cell["recipe"]} for cell in cells if _done(folder, cell) for row in _rows(folder, cell)]
    parquet.write_rows(folder / layout.GEOMETRY, rows, tables.GEOMETRY)


def _done(folder: Path, cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return manifest.read(folder / cell["geometry"]) if cell.get("geometry") else None


def _rows(folder: Path, cell: Mapping[str, Any]) -> list[Row]:
    return parquet.read(folder / cell["geometry"] / layout.GEOMETRY).to_pylist()
