"""What is measured beside the cells: some steps of each rank by itself. No torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from peftodyssey.memory.probes import NO_EFFECT, plain
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, MeasureTask
from peftodyssey.recipe import identity
from peftodyssey.store import layout

FOLDER = "ranks"


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """One task for each base, method and rank whose steps cost the same; text, seed and learning rate do not count."""
    tasks: dict[str, MeasureTask] = {}
    by_cell: dict[str, CellMeasure] = {}
    for cell in context.cells:
        if cell.cell.method.rank and cell.cell.method.lr and cell.train_index:
            task = _of_cell(cell)
            tasks.setdefault(task.folder, task)
            by_cell[cell.folder] = CellMeasure(reads=(task.folder,), entry=task.folder)
    return MeasurePlan(tuple(tasks.values()), by_cell)


def _of_cell(cell: CellTask) -> MeasureTask:
    method = {name: value for name, value in asdict(cell.cell.method).items() if name not in NO_EFFECT}
    facts: dict[str, Any] = plain(
        {
            "model": cell.base.source.fingerprint,
            "precision": cell.base.precision,
            "method": method,
            "batch_tokens": cell.cell.train.batch_tokens,
            "step": asdict(cell.step),
        }
    )
    base = layout.slug(cell.base.source.name.rsplit("/", 1)[-1], cell.base.source.revision)
    folder = f"{FOLDER}/{layout.folder_name(layout.slug(base, cell.cell.method.label), identity.digest(facts))}"
    return MeasureTask("lora_ranks", folder, facts, options=cell, base=cell.base, on="base")
