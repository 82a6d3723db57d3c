"""The inert result of planning: which texts to index, which bases to score, which cells to train, and where each lands.

`plan.build` makes it, `run.scheduler` walks it, `check` and `plan` print it. Nothing here does anything.
"""

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
    """One way of holding a base model in memory; cells with equal keys share it."""

    source: ModelSource
    precision: str
    quant: QuantSpec | None

    @property
    def identifier(self) -> tuple[str, str, str]:
        """What tells bases apart, as text."""
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
    chat: Chat | None = None  # what makes text of conversations


@dataclass(frozen=True)
class ScoreTask:
    """One column of NLL: a base (alone, or as a cell changed it) on one index."""

    folder: str
    index: str
    base: BaseModelKey
    settings: ScoreSpec
    cell: str | None  # hash of the cell whose weights are scored; None: the base itself
    identity: dict[str, Any]
    batch_tokens: int | None = None  # of one pass, as the memory allows; None: by the device
    share: float = 1.0  # of the cell's update that the scored weights have


@dataclass(frozen=True)
class ChoiceTask:
    """Likelihoods of the choices of one task under a base, alone or as a cell changed it."""

    folder: str
    task: Questions
    base: BaseModelKey
    with_prefix: bool  # the start token stands before every prompt
    cell: str | None
    identity: dict[str, Any]
    batch_tokens: int | None = None


@dataclass(frozen=True)
class NoiseTask:
    """Shift the weights of one base, as `noise` says or along what one cell added to them, and score one text each
    time.
    """

    score: ScoreTask  # the text, the unquantised base, and the folder
    noise: Noise
    earliest: BaseModelKey | None  # whose tensors give the scale, where it is that of the earliest rung
    entry: dict[str, Any]  # what the store's plan file says of it

    @property
    def base(self) -> BaseModelKey:
        """The base that is shifted."""
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
    """Mean hidden states of one text's chunks under one unquantised base."""

    folder: str
    index: str
    base: BaseModelKey
    layer: int  # of the decoder, 0 the embeddings; -1 the last
    chunks: int  # at most; of each half where there are halves
    chunk_tokens: int
    halves: bool  # the text is the pretraining sample, parted at random by documents
    identity: dict[str, Any]


@dataclass(frozen=True)
class CellTask:
    """Train one cell (or load a saved one) and fill the columns that stand on it."""

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
    early_stop_eval: ScoreTask | None = None  # general text that ends the training; looked at, never written
    wise_ft_scores: tuple[ScoreTask, ...] = ()  # columns of shares of the update, by share
    update_noise: tuple[NoiseTask, ...] = ()  # the base shifted along what training added to it
    geometry_folder: str | None = None  # where it is written how far the weights moved; None: not asked for
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
        """The same, told to write how far the weights moved: under the cell's own name, beside the cells."""
        folder = self.folder.replace(layout.CELLS, layout.GEOMETRY_DIR, 1)
        return replace(self, geometry_folder=folder, entry={**self.entry, "geometry": folder})

    def fits(self, budget_bytes: int) -> bool:
        """Whether training and scoring stay within the budget."""
        return self.memory.fits(budget_bytes) and self.scoring_bytes <= budget_bytes


@dataclass(frozen=True)
class Plan:
    """Everything that a recipe asks for, in the order in which it is best done."""

    recipe: Recipe
    device: Device
    budget_bytes: int
    indexes: tuple[IndexTask, ...]
    base_scores: tuple[ScoreTask, ...]
    cells: tuple[CellTask, ...]
    warnings: tuple[str, ...]
    digest: str
    base_choices: tuple[ChoiceTask, ...] = ()
    noise: tuple[NoiseTask, ...] = ()  # bases whose weights are shifted
    hidden_states: tuple[HiddenStatesTask, ...] = ()  # what likeness to the pretraining text is measured on

    @property
    def base_order(self) -> dict[tuple[str, str, str], int]:
        """Place of every base in the recipe's order, each unquantised one before its quantised forms."""
        names = (name for t in self.cells for name in (replace(t.base, quant=None).identifier, t.base.identifier))
        return {name: place for place, name in enumerate(dict.fromkeys(names))}

    @property
    def too_large(self) -> tuple[CellTask, ...]:
        """Cells whose step, or whose scoring, stays above the budget whatever is chosen."""
        return tuple(task for task in self.cells if not task.fits(self.budget_bytes))
