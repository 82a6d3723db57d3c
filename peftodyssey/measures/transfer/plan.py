"""Which other texts each cell is scored on: the test splits of every domain of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftodyssey.corpora.newlines import policy_of
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, IndexTask
from peftodyssey.recipe import grid
from peftodyssey.recipe.cell import CorpusSpec


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """Columns of every cell on the other domains; those of base models are shared between cells."""
    domains = grid.domain_specs(context.recipe)
    return MeasurePlan(by_cell={cell.folder: _of_cell(cell, domains, context) for cell in context.cells})


def _of_cell(cell: CellTask, domains: Sequence[CorpusSpec], context: PlanContext) -> CellMeasure:
    texts = _other_texts(cell, domains, context)
    return CellMeasure(texts=tuple(context.texts.columns(cell.trained, name, index) for name, index in texts))


def _other_texts(cell: CellTask, domains: Sequence[CorpusSpec], context: PlanContext) -> list[tuple[str, IndexTask]]:
    """Texts by name; newline policies under which a text is scored alike are one text."""
    own = cell.scores[0].index
    texts: dict[str, tuple[str, IndexTask]] = {}
    for spec in domains:
        scored = replace(spec, newline=policy_of(spec.newline, "test"))
        index = context.texts.index(cell.cell, scored, "test", cell.cell.score.tokens)
        if index.folder != own:
            texts.setdefault(index.folder, (scored.display_name, index))
    return list(texts.values())
