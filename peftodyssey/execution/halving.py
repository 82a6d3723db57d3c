"""Successive halving: of tuned learning rates, those that trail on validation stop early, with all of their seeds.

The scheduler trains the cells of `tuning_groups` from evaluation to evaluation and calls `prune_trailing` after each. A
cell that continues is trained as it would have been without halving (Jamieson and Talwalkar, arXiv 1502.07943); a
stopped cell keeps its checkpoint and resumes where `select` is removed. Rates are compared at constant learning rate
only, on the stem of a WSD schedule: a high rate is behind until it decays. The best rate and its two neighbours
continue, because a rate is known to be the best only where both are trained to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftodyssey.jobs import eval_callback
from peftodyssey.plan.tasks import CellTask
from peftodyssey.stats.lr_selection import neighbours
from peftodyssey.store import layout, manifest, sealed

TuningGroup = tuple[CellTask, ...]


def tuning_groups(cells: Sequence[CellTask]) -> list[TuningGroup]:
    """The groups of `cells` with two or more learning rates, of which some are to be stopped; they hold all seeds."""
    groups: dict[str, list[CellTask]] = {}
    for task in cells:
        if task.train_index and task.cell.method.tuned and task.cell.train.halving:
            groups.setdefault(task.entry["group"], []).append(task)
    return [tuple(group) for group in groups.values() if len({_lr(task) for task in group}) > 1]


def points(group: TuningGroup) -> dict[int, float]:
    """The evaluations at which the cells of a group are compared: shares of the budget by number."""
    return group[0].cell.train.halving_points


def still_active(group: TuningGroup, eval_index: int, root: Path) -> list[CellTask]:
    """The cells that were not stopped before evaluation `eval_index`, counted from 0."""
    stops = {task.folder: stopped(task, root) for task in group}
    return [task for task in group if (stop := stops[task.folder]) is None or stop["eval_index"] >= eval_index]


def not_reached(task: CellTask, eval_index: int, root: Path) -> bool:
    """Whether a cell has not been evaluated so often yet."""
    return len(eval_callback.validation(root, task)) <= eval_index


def prune_trailing(group: TuningGroup, eval_index: int, root: Path) -> list[CellTask]:
    """Mark the cells that trail at an evaluation as stopped, and unmark those that no longer do; returns the marked.

    Of the rates one in `halving` continues, rounded up, by the mean of validation loss over seeds (the smaller rate
    where two are equal), and so do the neighbours of the best. A rate without this evaluation in any seed has failed
    and is not counted, one that failed in some seeds trails; a finished cell is not marked. Every start compares anew:
    with a longer grid, a stopped cell may continue.
    """
    active = still_active(group, eval_index, root)
    losses = _losses(active, eval_index, root)
    order = sorted(losses, key=lambda lr: (losses[lr], lr))
    halving = group[0].cell.train.halving
    assert halving is not None
    if not order:
        return []
    best = order[0]
    going_on = {*order[: math.ceil(len(order) / halving)], *neighbours(best, {_lr(task) for task in group})}
    for task in (task for task in active if _lr(task) in going_on):
        manifest.remove(_mark(task, root))
    trailing = [task for task in active if _lr(task) in losses and _lr(task) not in going_on]
    marked = [task for task in trailing if manifest.read(root / task.folder) is None]
    for task in marked:
        mark = {
            "status": "stopped",
            "eval_index": eval_index,
            "reason": f"stopped at {points(group)[eval_index]:.0%} of its budget: {losses[_lr(task)]:.4f} nats/token "
            f"on validation, {losses[best]:.4f} at lr {best:g}",
        }
        sealed.write(_mark(task, root), mark)
    return marked


def _losses(active: Sequence[CellTask], eval_index: int, root: Path) -> dict[float, float]:
    """The mean validation loss over seeds of each rate that any seed was evaluated at; infinite where one failed."""
    by_rate: dict[float, list[float]] = {}
    for task in active:
        evals = eval_callback.validation(root, task)
        loss = evals[eval_index] if len(evals) > eval_index else math.inf
        by_rate.setdefault(_lr(task), []).append(loss if math.isfinite(loss) else math.inf)
    reached = {_lr(task) for task in active if not not_reached(task, eval_index, root)}
    return {lr: math.fsum(losses) / len(losses) for lr, losses in by_rate.items() if lr in reached}


def _lr(task: CellTask) -> float:
    assert task.cell.method.lr is not None, "a cell that is tuned has a learning rate"
    return task.cell.method.lr


def stopped(task: CellTask, root: Path) -> dict[str, Any] | None:
    """When and why a cell, or the one it is made from, was stopped; None where it was not, or without halving now."""
    return manifest.stop(root / (task.source or task.folder)) if task.cell.train.halving else None


def _mark(task: CellTask, root: Path) -> Path:
    return root / task.folder / layout.STOPPED
