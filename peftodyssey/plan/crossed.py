"""The texts of the other domains that a cell is scored on, each once. Called by `plan.build`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora.newlines import policy_of
from peftodyssey.recipe.cell import Cell, CorpusSpec

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import IndexTask, ScoreTask

Columns = Mapping[str, "ScoreTask | None"]  # before, quantised, after


def texts(
    cell: Cell, own: IndexTask, index_of: Callable[[CorpusSpec], IndexTask], columns_of: Callable[[IndexTask], Columns]
) -> list[tuple[str, IndexTask, Columns]]:
    """Name, index and columns of every text that is scored otherwise than the cell's `own`; policies that are scored
    alike are one.
    """
    found: dict[str, tuple[str, IndexTask]] = {}
    for point in cell.transfer_texts:
        scored = replace(point, newline=policy_of(point.newline, "test"))
        index = index_of(scored)
        if index.folder != own.folder:
            found.setdefault(index.folder, (scored.display_name, index))
    return [(name, index, columns_of(index)) for name, index in found.values()]


def entry(found: Sequence[tuple[str, IndexTask, Columns]]) -> dict[str, Any]:
    """What the plan file says of them. It stands beside `scores`, so that asking for it later is no new row of results."""
    lines = [
        {"name": name, "index": index.folder, **{key: task.folder if task else None for key, task in columns.items()}}
        for name, index, columns in found
    ]
    return {"transfer": lines} if lines else {}
