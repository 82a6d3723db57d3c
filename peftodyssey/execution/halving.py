"""Successive halving: of cells that differ in their learning rate alone, those that trail on validation stop early.

The scheduler trains the cells of `tuning_groups` from evaluation to evaluation and calls `prune_trailing` after each. A
cell that continues is trained as it would have been without halving (Jamieson and Talwalkar, arXiv 1502.07943); a
stopped cell keeps its checkpoint and resumes where `select` is removed.
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


def shares(group: TuningGroup) -> tuple[float, ...]:
    """The shares of the budget at which the cells of a group are compared."""
    return tuple(share for share in group[0].cell.train.eval_at if share < 1)


def still_active(group: TuningGroup, eval_index: int, root: Path) -> list[CellTask]:
    """The cells that were not stopped before evaluation `eval_index`, counted from 0."""
    stops = {task.folder: stopped(task, root) for task in group}
    return [task for task in group if (stop := stops[task.folder]) is None or stop["eval_index"] >= eval_index]


def not_reached(task: CellTask, eval_index: int, root: Path) -> bool:
    """Whether a cell has not been evaluated so often yet."""
    return len(eval_callback.validation(root, task)) <= eval_index


def prune_trailing(group: TuningGroup, eval_index: int, root: Path) -> list[CellTask]:
    """Mark the cells that trail at an evaluation as stopped, and unmark those that no longer do; returns the marked.

    One in `halving` continues, rounded up, the smaller learning rate where two are equal. A cell without this
    evaluation has failed and is not counted; a finished cell is not marked. Every start compares anew: with a longer
    grid, a stopped cell may continue.
    """
    evaluated = [task for task in still_active(group, eval_index, root) if not not_reached(task, eval_index, root)]
    nll = {task.folder: eval_callback.validation(root, task)[eval_index] for task in evaluated}
    nll = {folder: value if math.isfinite(value) else math.inf for folder, value in nll.items()}
    order = sorted(evaluated, key=lambda task: (nll[task.folder], task.cell.method.lr))
    halving = group[0].cell.train.halving
    assert halving is not None
    continuing, trailing = order[: (n := math.ceil(len(order) / halving))], order[n:]
    for task in continuing:
        manifest.remove(_mark(task, root))
    marked = [task for task in trailing if manifest.read(root / task.folder) is None]
    for task in marked:
        mark = {
            "status": "stopped",
            "eval_index": eval_index,
            "reason": f"stopped at {shares(group)[eval_index]:.0%} of its budget: {nll[task.folder]:.4f} nats/token "
            f"on validation, {nll[order[0].folder]:.4f} at lr {order[0].cell.method.lr:g}",
        }
        atomic.write_text(_mark(task, root), manifest.to_json(mark))
    return marked


def stopped(task: CellTask, root: Path) -> dict[str, Any] | None:
    """When and why a cell was stopped; None where it was not, or where the recipe no longer uses halving."""
    return manifest.stop(root / task.folder) if task.cell.train.halving else None


def _mark(task: CellTask, root: Path) -> Path:
    return root / task.folder / layout.STOPPED
