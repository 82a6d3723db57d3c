"""Which index of pretraining text a cell's tokens are counted in. No torch."""

from __future__ import annotations

from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.text_tasks import SAMPLE_TOKENS_CAP


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """No tasks: the columns of each cell are enough. An index a tokenizer, where there is a sample of that text."""
    if context.sample is None:
        return MeasurePlan()
    by_cell = {}
    for cell in context.cells:
        folder = context.texts.index(cell.cell, context.sample, "all", SAMPLE_TOKENS_CAP).folder
        by_cell[cell.folder] = CellMeasure(reads=(folder,), entry={"sample_index": folder})
    return MeasurePlan(by_cell=by_cell)
