"""A plan as data: which texts to index, which models to score, which cells to train, and the folder of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.source import Corpus
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import MemoryPlan
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.model_shape import ModelShape
from peftodyssey.models.source import ModelSource
from peftodyssey.recipe.cell import Cell, QuantSpec, ScoreSpec
from peftodyssey.recipe.schema import Recipe


@dataclass(frozen=True)
class BaseModelKey:
    """A base model as it is loaded; cells with equal keys share it."""

    source: ModelSource
    precision: str
    quant: QuantSpec | None

    @property
    def identifier(self) -> tuple[str, str, str]:
        """Name, revision and quantisation, as text."""
        quant = "" if self.quant is None else f"{self.quant.kind}{self.quant.double_quant}"
        return (self.source.name, str(self.source.revision), quant)


@dataclass(frozen=True)
class IndexTask:
    """Tokenise one split of one text with one tokenizer."""

    folder: str  # below the output directory
    corpus: Corpus
    split: str
    tokenizer_source: ModelSource
    max_tokens: int | None
    newline: str
    objective: str
    identity: dict[str, Any]
    chat: Chat | None = None  # the template that turns conversations into text
    apart_from: tuple[str, ...] = ()  # folders of indexes; what stands in them, or holds what does, is left out


@dataclass(frozen=True)
class ScoreTask:
    """One column of NLL: a base model (alone, or as a cell changed it) on one index."""

    folder: str
    index: str
    base: BaseModelKey
    settings: ScoreSpec
    cell: str | None  # hash of the cell whose weights are scored; None: the base model itself
    identity: dict[str, Any]
    batch_tokens: int | None = None  # of one pass, as the memory allows; None: the default of the device


@dataclass(frozen=True)
class MeasureTask:
    """One task of a measure, on a base model alone or on a trained cell."""

    measure: str  # name in the registry
    folder: str
    identity: dict[str, Any]
    options: Any  # what the measure's own job has to know, as frozen data
    base: BaseModelKey
    cell: str | None = None  # hash of the cell; None: the base model itself
    needs: tuple[str, ...] = ()  # folders that must be finished before
    on: Literal["base", "adapted", "update"] = "adapted"  # what a cell's task looks at; `update` runs on the bare base
    retrain: bool = False  # whether the cell is trained again where this is missing and its weights are gone
    column_of: str | None = None  # the index of which the task writes a column
    scored_tokens: int = 0  # that it scores, for the estimate of time
    host_bytes: Mapping[str, int] = field(default_factory=dict)  # host memory of the process meanwhile, by term


@dataclass(frozen=True)
class TrainedCell:
    """A cell as scoring needs it: its base model, its hash, its step, and the tokens of one scoring pass."""

    cell: Cell
    base: BaseModelKey
    hash: str
    step: StepSpec
    pass_tokens: int | None


@dataclass(frozen=True)
class Stem:
    """What a cell shares with cells that differ from it in their budget alone (`plan.stems`)."""

    folder: str  # of the stem's state
    number: int  # of the budget, ascending from 0
    continues: bool  # whether there is a larger budget
    shared: float  # share of the cell's steps that smaller budgets have done


@dataclass(frozen=True)
class CellTask:
    """Train one cell (or load a saved one), score it and measure it."""

    cell: Cell
    hash: str  # 64 hex digits
    folder: str
    identity: dict[str, Any]
    base: BaseModelKey
    shape: ModelShape
    trainable: int
    train_index: str | None
    valid_index: str
    general_indexes: tuple[str, ...]
    scores: tuple[ScoreTask, ...]  # columns after adaptation: test, validation, general texts
    step: StepSpec
    memory: MemoryPlan
    scoring_bytes: int  # of the device, while the trained model is scored
    pass_tokens: int | None  # of one scoring pass
    auto_values: dict[str, Any]
    entry: dict[str, Any]  # what the store's plan file says of it
    replay_index: str | None = None  # general text that is trained on too
    early_stop_eval: ScoreTask | None = None  # general text whose loss ends the training; never written
    columns: tuple[ScoreTask, ...] = ()  # every column of the trained cell, each once, those of measures included
    measures: tuple[MeasureTask, ...] = ()  # of the trained cell
    required: tuple[str, ...] = ()  # folders of texts and base models without which its row cannot be made
    source: str | None = None  # folder of the cell whose trained weights it changes and scores
    read_by: tuple[str, ...] = ()  # folders of the cells that do so with its own
    stem: Stem | None = None  # None: it is trained from its start
    reads: tuple[str, ...] = ()  # folders that the report reads beside these; where one fails the cell does not

    @property
    def short_hash(self) -> str:
        """The hash as tables print it."""
        return self.hash[:16]

    @property
    def trained(self) -> TrainedCell:
        """What scoring needs of it."""
        return TrainedCell(self.cell, self.base, self.hash, self.step, self.pass_tokens)

    def fits(self, budget_bytes: int) -> bool:
        """Whether training and scoring stay within the budget."""
        return self.memory.fits(budget_bytes) and self.scoring_bytes <= budget_bytes


@dataclass(frozen=True)
class Plan:
    """Everything that a recipe asks for, in the order of execution."""

    recipe: Recipe
    device: Device
    budget_bytes: int
    indexes: tuple[IndexTask, ...]
    base_scores: tuple[ScoreTask, ...]
    cells: tuple[CellTask, ...]
    measures: tuple[MeasureTask, ...]  # of base models
    measure_entries: dict[str, Any]  # what the store's plan file says of these, by measure
    warnings: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()  # how each text is read
    searches: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # of learning rates; see `plan.lr_grid`

    @property
    def base_order(self) -> dict[tuple[str, str, str], int]:
        """Position of every base model in the recipe, each unquantised one before its quantised forms."""
        names = (name for t in self.cells for name in (replace(t.base, quant=None).identifier, t.base.identifier))
        return {name: position for position, name in enumerate(dict.fromkeys(names))}

    @property
    def too_large(self) -> tuple[CellTask, ...]:
        """Cells whose step or scoring exceeds the budget with every setting."""
        return tuple(task for task in self.cells if not task.fits(self.budget_bytes))
