"""Which cells share a stem: those of several budgets under the schedule `wsd` that are alike in everything else.

The smallest budget trains the stem up to its decay, each larger one goes on from there. It changes no result, so it is
not part of a cell's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from peftodyssey.plan.tasks import CellTask, Stem
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.identity import digest
from peftodyssey.store import layout
from peftodyssey.training.schedule import wsd_decay_steps


def can_share(cell: Cell) -> bool:
    """Whether the steps of a cell before its decay do not depend on its budget."""
    train, method = cell.train, cell.method
    same_warmup = train.warmup_steps is not None or not train.warmup
    plain = train.engine == "native" and train.eval_at == (1.0,) and not method.options.get("early_stop")
    return method.lr is not None and train.schedule == "wsd" and same_warmup and plain


def with_stems(tasks: Sequence[CellTask], steps: Callable[[CellTask], int]) -> tuple[CellTask, ...]:
    """The tasks, in order, those of several budgets with their stems; `steps` gives the optimiser steps of a task."""
    groups: dict[tuple[str, str | None], list[CellTask]] = {}
    for task in tasks:
        if can_share(task.cell):
            groups.setdefault((_folder(task), task.train_index), []).append(task)
    stems: dict[str, Stem] = {}
    for (folder, _), members in groups.items():
        members = sorted(members, key=steps)
        done = [0, *(_decay_start(task, steps(task)) for task in members)]
        for number, (task, (before, _)) in enumerate(zip(members, pairwise(done), strict=True)):
            if len(members) > 1:
                stems[task.folder] = Stem(folder, number, number < len(members) - 1, before / steps(task))
    return tuple(replace(task, stem=stems.get(task.folder)) for task in tasks)


def _folder(task: CellTask) -> str:
    """The folder of the stem, by the identity of the cell without its budget, and by the text that it reads."""
    science = task.identity["science"]
    train = {name: value for name, value in science["train"].items() if not name.startswith("budget_")}
    shared = {**task.identity, "science": {**science, "train": train}, "text": task.train_index}
    return f"{layout.STEMS}/{digest(shared)[:16]}"


def _decay_start(task: CellTask, steps: int) -> int:
    return steps - wsd_decay_steps(steps, min(task.cell.train.warmup_steps or 0, steps - 1))
