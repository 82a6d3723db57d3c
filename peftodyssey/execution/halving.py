"""Successive halving: of cells that differ in their learning rate alone, those that trail on validation stop early.

`run.scheduler` trains the cells of `contests` point by point and asks `judge` after each. What goes on is trained as it
would have been without (Jamieson and Talwalkar, arXiv 1502.07943); what stops keeps its state and goes on where
`select` is removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftodyssey.jobs import eval_callback
from peftodyssey.plan.tasks import CellTask
from peftodyssey.store import atomic, layout, manifest

TuningGroup = tuple[CellTask, ...]


def tuning_groups(cells: Sequence[CellTask]) -> list[TuningGroup]:
    """The groups of two or more of `cells` whose learning rate is tuned and of which some are to be stopped."""
    groups: dict[str, list[CellTask]] = {}
    for task in cells:
        if task.train_index and task.cell.method.tuned and task.cell.train.halving:
            groups.setdefault(task.entry["group"], []).append(task)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def shares(contest: TuningGroup) -> tuple[float, ...]:
    """The points of the budget at which the cells of a contest are compared."""
    return tuple(share for share in contest[0].cell.train.eval_at if share < 1)


def still_active(contest: TuningGroup, point: int, root: Path) -> list[CellTask]:
    """The cells that were not stopped before point `point`, counted from 0."""
    stops = {task.folder: stopped(task, root) for task in contest}
    return [task for task in contest if (stop := stops[task.folder]) is None or stop["point"] >= point]


def not_reached(task: CellTask, point: int, root: Path) -> bool:
    """Whether a cell has not passed a point yet."""
    return len(eval_callback.validation(root, task)) <= point


def prune_trailing(contest: TuningGroup, point: int, root: Path) -> list[CellTask]:
    """Mark the cells that trail at a point as stopped, and those that no longer do as free; returns the stopped ones.

    One in `halving` goes on, rounded up, the smaller learning rate where two are equal; a cell that did not get there
    failed and is not counted, one that is finished stays so. Every start judges anew: a longer grid may free what
    trailed.
    """
    have = [task for task in still_active(contest, point, root) if not not_reached(task, point, root)]
    found = {task.folder: eval_callback.validation(root, task) for task in have}
    nll = {folder: values[point] if math.isfinite(values[point]) else math.inf for folder, values in found.items()}
    order = sorted(have, key=lambda task: (nll[task.folder], task.cell.method.lr))
    halving = contest[0].cell.train.halving
    assert halving is not None
    going, trailing = order[: (n := math.ceil(len(order) / halving))], order[n:]
    for task in going:
        manifest.remove(_mark(task, root))
    marked = [task for task in trailing if manifest.read(root / task.folder) is None]
    for task in marked:
        told = {
            "status": "stopped",
            "point": point,
            "reason": f"stopped at {shares(contest)[point]:.0%} of its budget: {nll[task.folder]:.4f} nats per token "
            f"on validation, {nll[order[0].folder]:.4f} at lr {order[0].cell.method.lr:g}",
        }
        atomic.write_text(_mark(task, root), manifest.to_json(told))
    return marked


def stopped(task: CellTask, root: Path) -> dict[str, Any] | None:
    """When and why a cell was stopped; None where it was not, or where nobody asks for that any more."""
    return manifest.stop(root / task.folder) if task.cell.train.halving else None


def _mark(task: CellTask, root: Path) -> Path:
    return root / task.folder / layout.STOPPED
