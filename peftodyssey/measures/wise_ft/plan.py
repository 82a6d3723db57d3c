"""Which cells are scored at shares of their update: every text, at each share that the method asks for."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, IndexTask, MeasureTask, ScoreTask
from peftodyssey.plan.text_tasks import score_task, scored_tokens


@dataclass(frozen=True)
class SharedUpdate:
    """One column under a share of the update."""

    score: ScoreTask
    share: float  # of the cell's update that the scored weights have


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """A task for each cell, share and text."""
    indexes = {index.folder: index for index in context.texts.indexes.values()}
    return MeasurePlan(
        by_cell={
            cell.folder: _of_cell(cell, [indexes[score.index] for score in cell.scores])
            for cell in context.cells
            if cell.cell.method.options.get("wise_ft")
        }
    )


def _of_cell(cell: CellTask, texts: list[IndexTask]) -> CellMeasure:
    """The tasks of a cell; `texts` are test, validation, then the general texts."""
    by_share = {share: [_task(cell, index, share) for index in texts] for share in cell.cell.method.options["wise_ft"]}
    entry = [
        {"share": share, "test": test.folder, "valid": valid.folder, "general": [task.folder for task in general]}
        for share, (test, valid, *general) in by_share.items()
    ]
    return CellMeasure(tasks=tuple(task for tasks in by_share.values() for task in tasks), entry=entry)


def _task(cell: CellTask, index: IndexTask, share: float) -> MeasureTask:
    score = score_task(cell.cell, cell.base, index, cell.hash, cell.pass_tokens, share)
    return MeasureTask(
        "wise_ft",
        score.folder,
        score.identity,
        SharedUpdate(score, share),
        cell.base,
        cell.hash,
        needs=(index.folder,),
        retrain=True,
        column_of=index.folder,
        scored_tokens=scored_tokens(cell.cell.score.tokens),
    )
