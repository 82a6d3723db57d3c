"""Which updates are measured: those of all cells, each in a folder named after the cell's."""

from __future__ import annotations

from typing import Any

from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, MeasureTask
from peftodyssey.store import layout

FOLDER = "geometry"


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """One task a cell."""
    return MeasurePlan(by_cell={cell.folder: _of_cell(cell) for cell in context.cells})


def _of_cell(cell: CellTask) -> CellMeasure:
    folder = cell.folder.replace(layout.CELLS, FOLDER, 1)
    identity: dict[str, Any] = {"cell": cell.hash}
    task = MeasureTask("geometry", folder, identity, options=cell.shape, base=cell.base, cell=cell.hash)
    return CellMeasure(tasks=(task,), entry=folder)
