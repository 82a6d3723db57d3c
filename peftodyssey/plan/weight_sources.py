"""Which cells are made from the trained weights of another cell: those of `truncate` from full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftodyssey.plan.tasks import CellTask
from peftodyssey.recipe.identity import FACTS, digest, identity
from peftodyssey.recipe.method_grid import source_of


def with_sources(tasks: Sequence[CellTask]) -> tuple[CellTask, ...]:
    """The tasks, in order, with `source` and `read_by`."""
    folders = {task.hash: task.folder for task in tasks}
    sources = {task.folder: folders[_source_hash(task)] for task in tasks if task.cell.method.method == "truncate"}
    return tuple(
        replace(
            task,
            source=sources.get(task.folder),
            read_by=tuple(folder for folder, source in sources.items() if source == task.folder),
        )
        for task in tasks
    )


def _source_hash(task: CellTask) -> str:
    facts = {**dict.fromkeys(FACTS), **task.identity["facts"]}
    return digest(identity(replace(task.cell, method=source_of(task.cell.method)), facts))
