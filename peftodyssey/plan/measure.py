"""What a plan knows of a measure: its specification, and the function that makes its tasks. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from peftodyssey.memory.device import Device
from peftodyssey.plan.sources import Sources
from peftodyssey.plan.tasks import CellTask, MeasureTask
from peftodyssey.plan.text_tasks import TextColumns, TextTasks
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


@dataclass(frozen=True)
class PlanContext:
    """What measures plan with: the cells, and what makes further texts and columns, each once."""

    recipe: Recipe
    cells: tuple[CellTask, ...]
    texts: TextTasks
    sources: Sources
    device: Device
    budget_bytes: int
    sample: CorpusSpec | None  # of pretraining text


@dataclass(frozen=True)
class CellMeasure:
    """What a measure asks of one cell."""

    tasks: tuple[MeasureTask, ...] = ()
    texts: tuple[TextColumns, ...] = ()  # further texts that the cell is scored on
    required: tuple[str, ...] = ()  # folders of texts and base models without which the cell's row cannot be made
    reads: tuple[str, ...] = ()  # folders that the report reads beside these
    entry: Any = None  # what the store's plan file says of the cell under the measure's name, as plain JSON values


@dataclass(frozen=True)
class MeasurePlan:
    """What a measure asks of a plan."""

    base_tasks: tuple[MeasureTask, ...] = ()
    by_cell: Mapping[str, CellMeasure] = field(default_factory=dict)  # by the folder of the cell
    entry: Any = None  # what the store's plan file says of the base tasks


class PlannedMeasure(Protocol):
    """A measure as the plan sees it."""

    @property
    def spec(self) -> MeasureSpec:
        """How a recipe asks for it."""

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        """Its tasks for `options` of the recipe. Raises InputError where they cannot be done."""
