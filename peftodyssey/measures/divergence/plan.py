"""Which cells are compared with their base on which texts: all, on the test text and on every general text."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.constants import HELD_STATES_BYTES
from peftodyssey.methods.wise_ft import can_be_scaled
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, IndexTask, MeasureTask, ScoreTask
from peftodyssey.plan.text_tasks import score_task, scored_tokens
from peftodyssey.recipe.identity import digest
from peftodyssey.store import layout

FOLDER = "divergence"
SHARE = 0.1  # of the update, forwards and backwards, from which slope and curvature are taken


@dataclass(frozen=True)
class DivergenceJob:
    """What a job has to know of one text."""

    score: ScoreTask
    share: float | None  # None: slope and curvature are not measured


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """A task for each cell and text."""
    indexes = {index.folder: index for index in context.texts.indexes.values()}
    return MeasurePlan(by_cell={cell.folder: _of_cell(cell, indexes) for cell in context.cells})


def _of_cell(cell: CellTask, indexes: dict[str, IndexTask]) -> CellMeasure:
    target = _task(cell, indexes[cell.scores[0].index], None)
    share = SHARE if can_be_scaled(cell.cell.method) else None
    general = [_task(cell, indexes[folder], share) for folder in cell.general_indexes]
    entry = {"target": target.folder, "general": [task.folder for task in general]}
    return CellMeasure(tasks=(target, *general), entry=entry)


def _task(cell: CellTask, index: IndexTask, share: float | None) -> MeasureTask:
    score = score_task(cell.cell, cell.base, index, cell.hash, cell.pass_tokens)
    identity = {**score.identity, "share": share}
    name = score.folder.split("/", 1)[1].rsplit("-", 1)[0]
    passes = 2 if share is None else 5
    return MeasureTask(
        "divergence",
        f"{FOLDER}/{layout.folder_name(name, digest(identity))}",
        identity,
        DivergenceJob(score, share),
        cell.base,
        cell.hash,
        needs=(index.folder,),
        scored_tokens=passes * scored_tokens(cell.cell.score.tokens),
        host_bytes={"states of the base": HELD_STATES_BYTES},
    )
