"""A plan as data: which texts to index, which models to score, which cells to train, and the folder of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.multiple_choice import Questions
from peftodyssey.corpora.source import Corpus
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import MemoryPlan
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.model_shape import ModelShape
from peftodyssey.models.source import ModelSource
from peftodyssey.recipe.cell import Cell, QuantSpec, ScoreSpec
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_measures import Noise
from peftodyssey.store import layout


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
    share: float = 1.0  # of the cell's update that the scored weights have


@dataclass(frozen=True)
class ChoiceTask:
    """Likelihoods of the choices of one task under a base model, alone or as a cell changed it."""

    folder: str
    task: Questions
    base: BaseModelKey
    with_prefix: bool  # every prompt starts with the start token
    cell: str | None
    identity: dict[str, Any]
    batch_tokens: int | None = None


@dataclass(frozen=True)
class NoiseTask:
    """Shift the weights of one base model, by noise or along one cell's update, and score one text after each shift."""

    score: ScoreTask  # the text, the unquantised base, and the folder
    noise: Noise
    earliest: BaseModelKey | None  # whose tensors give the scale `earliest_rung`
    entry: dict[str, Any]  # what the store's plan file says of it

    @property
    def base(self) -> BaseModelKey:
        """The base model that is shifted."""
        return self.score.base

    @property
    def index(self) -> str:
        """Folder of the text that is scored."""
        return self.score.index

    @property
    def folder(self) -> str:
        """Where the scores are written."""
        return self.score.folder


@dataclass(frozen=True)
class HiddenStatesTask:
    """Mean hidden states of one text's chunks under one unquantised base model."""

    folder: str
    index: str
    base: BaseModelKey
    layer: int  # of the decoder, 0 the embeddings; -1 the last
    chunks: int  # at most; of each half where there are halves
    chunk_tokens: int
    halves: bool  # the text is the pretraining sample, split in two by documents at random
    identity: dict[str, Any]


@dataclass(frozen=True)
class CellTask:
    """Train one cell (or load a saved one) and score it."""

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
    scores: tuple[ScoreTask, ...]  # columns after adaptation
    step: StepSpec
    memory: MemoryPlan
    scoring_bytes: int  # of the device, while the trained model is scored
    auto_values: dict[str, Any]
    entry: dict[str, Any]  # what the store's plan file says of it
    choices: tuple[ChoiceTask, ...] = ()  # tasks after adaptation
    replay_index: str | None = None  # general text that is trained on too
    early_stop_eval: ScoreTask | None = None  # general text whose loss ends the training; never written
    wise_ft_scores: tuple[ScoreTask, ...] = ()  # columns of shares of the update, by share
    update_noise: tuple[NoiseTask, ...] = ()  # the base model shifted along the cell's update
    geometry_folder: str | None = None  # where it is written how far the weights moved; None: not measured
    transfer_scores: tuple[ScoreTask, ...] = ()  # columns on the other domains of the recipe

    @property
    def columns(self) -> tuple[ScoreTask, ...]:
        """Every column of the whole update, each once."""
        return tuple({column.folder: column for column in (*self.scores, *self.transfer_scores)}.values())

    @property
    def short_hash(self) -> str:
        """The hash as tables print it."""
        return self.hash[:16]

    def with_geometry(self) -> CellTask:
        """The same task with the folder, named after the cell, for how far the weights moved."""
        folder = self.folder.replace(layout.CELLS, layout.GEOMETRY_DIR, 1)
        return replace(self, geometry_folder=folder, entry={**self.entry, "geometry": folder})

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
    warnings: tuple[str, ...]
    digest: str
    base_choices: tuple[ChoiceTask, ...] = ()
    noise: tuple[NoiseTask, ...] = ()  # base models whose weights are shifted
    hidden_states: tuple[HiddenStatesTask, ...] = ()  # what similarity to the pretraining text is measured on

    @property
    def base_order(self) -> dict[tuple[str, str, str], int]:
        """Position of every base model in the recipe, each unquantised one before its quantised forms."""
        names = (name for t in self.cells for name in (replace(t.base, quant=None).identifier, t.base.identifier))
        return {name: position for position, name in enumerate(dict.fromkeys(names))}

    @property
    def too_large(self) -> tuple[CellTask, ...]:
        """Cells whose step or scoring exceeds the budget with every setting."""
        return tuple(task for task in self.cells if not task.fits(self.budget_bytes))
