"""What the plan says of each cell for the comparison: the pairs and the margin. It has no tasks."""

from __future__ import annotations

from peftodyssey.measures.contrast.spec import Contrast
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext


def planned(options: Contrast, context: PlanContext) -> MeasurePlan:
    """No tasks: the comparison is made of columns that every recipe has."""
    entry = {"pairs": [list(pair) for pair in options.pairs], "margin": options.margin}
    return MeasurePlan(by_cell={cell.folder: CellMeasure(entry=entry) for cell in context.cells})
