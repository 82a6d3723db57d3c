"""Cells that are made from the trained weights of another cell: their order, and how long those weights are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from peftodyssey.execution.prune_weights import drop_weights
from peftodyssey.jobs.cell_inputs import weights_of
from peftodyssey.jobs.finish import NEEDED, is_read
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.store import manifest


def after_their_sources(tasks: Sequence[CellTask]) -> list[CellTask]:
    """The tasks with each cell directly after the one whose weights it is made from, where that is among them."""
    folders = {task.folder for task in tasks}
    made_from: dict[str, list[CellTask]] = {}
    for task in tasks:
        if task.source in folders:
            made_from.setdefault(str(task.source), []).append(task)
    return [one for task in tasks if task.source not in folders for one in (task, *made_from.get(task.folder, ()))]


def missing_source(task: CellTask, plan: Plan, root: Path) -> CellTask | None:
    """The cell whose weights `task` is made from where these are not there; else None."""
    if task.source is None or weights_of(task, root) is not None:
        return None
    return next(other for other in plan.cells if other.folder == task.source)


def to_train(plan: Plan, todo: Iterable[CellTask], root: Path) -> list[CellTask]:
    """The cells that are trained for `todo`: unfinished ones, and those whose weights one is made from and are gone."""
    todo = list(todo)
    unfinished = [task for task in todo if task.train_index and manifest.read(root / task.folder) is None]
    sources = [source for task in todo if (source := missing_source(task, plan, root))]
    return list({task.folder: task for task in (*unfinished, *sources)}.values())


def release(tasks: Iterable[CellTask], root: Path) -> None:
    """Deletes the weights that were kept for other cells alone, once these are finished."""
    for task in tasks:
        facts = (manifest.read(root / task.folder) or {}).get("facts", {})
        if facts.get("weights") == NEEDED and is_read(task, root):
            drop_weights(root / task.folder)
