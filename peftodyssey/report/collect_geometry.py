"""Collects how far each cell moved its base: `geometry.parquet`, and three numbers of its row of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.stats import geometry
from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]


def of_cell(folder: Path, cell: Mapping[str, Any]) -> Row:
    """Columns of a cell's row; none if its geometry was not measured or lacks a weight that was updated."""
    entry = _manifest(folder, cell)
    if not entry or entry["facts"]["refused"]:
        return {}
    facts = entry["facts"]
    layers = f"{len(facts['layers'])} of {facts['layers_of']}"
    return {**geometry.summarize(_rows(folder, cell), facts["base_norm"]), "decomposed_layers": layers}


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Write `geometry.parquet` of finished `cells` of plans, in their order."""
    measured = [cell for cell in cells if _manifest(folder, cell)]
    rows = [{**row, "recipe": cell["recipe"]} for cell in measured for row in _rows(folder, cell)]
    parquet.write_rows(folder / layout.GEOMETRY, rows, tables.GEOMETRY)


def _manifest(folder: Path, cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return manifest.read(folder / cell["geometry"]) if cell.get("geometry") else None


def _rows(folder: Path, cell: Mapping[str, Any]) -> list[Row]:
    return parquet.read(folder / cell["geometry"] / layout.GEOMETRY).to_pylist()
