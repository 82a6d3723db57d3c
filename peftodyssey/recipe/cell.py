"""One point of a recipe's grid, with every number resolved: what is trained, on what, how it is scored.

Plain frozen data, without torch or pydantic.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from peftodyssey.constants import WSD_DECAY_SHARE


@dataclass(frozen=True)
class ModelSpec:
    """A base model at one revision, before quantisation."""

    name: str  # bundled/..., Hub id, local path, random/<shape>
    revision: str | None = None
    max_position_embeddings: int | None = None  # tokens; overrides config (random/ shapes)
    weights: str = "safetensors"  # | bin: a revision that is pickled only may be converted


@dataclass(frozen=True)
class CorpusSpec:
    """One dataset of text: where it is and how it is read."""

    name: str  # short name, unique in the recipe; names folders and rows
    source: str  # bundled/<name>, m2d2/<config>, hub:<dataset>, or an absolute path
    field: str | None = None  # text field of jsonl, csv, parquet, Hub rows; None: "text", or the only string field
    config: str | None = None  # configuration of a Hub dataset
    # {}, shares such as {"valid": 0.05, "test": 0.1}, or names such as {"test": "validation"}
    split: dict[str, Any] = dataclasses.field(default_factory=dict)
    newline: str = "keep"  # keep | strip | collapse | mismatch (train stripped, score kept)
    revision: str | None = None  # revision of a Hub dataset
    special_tokens: str = "text"  # text | parse: how control tokens that the text spells out are read
    # columns of prompt and completion, or of messages, by these names; {}: known by their names
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    bad_rows: str = "error"  # error | drop: rows that hold no text or no answer
    dedupe: str = "off"  # off | test | train: which side loses documents that training and held-out splits share

    @property
    def display_name(self) -> str:
        """The name, with the newline policy where it is not `keep`."""
        return self.name if self.newline == "keep" else f"{self.name}, {self.newline}"


@dataclass(frozen=True)
class QuantSpec:
    """How the frozen base is stored: bitsandbytes 4-bit or 8-bit."""

    kind: str  # nf4 | fp4 | int8
    double_quant: bool = True


@dataclass(frozen=True)
class MethodSpec:
    """One constraint on the update with all its numbers."""

    method: str  # full | lora | qlora | bitfit | last_layers | ia3 | peft | truncate | saved
    label: str  # what tables and legends print, e.g. "lora r=8"
    lr: float | None = None  # None for saved
    tuned: bool = False  # lr is one of a tuned set: selected on validation
    max_cells: int | None = None  # of the search that lr is of; lr None: the search has not begun
    rank: int | None = None
    alpha: float | None = None  # resolved number (2r -> 2 * rank)
    targets: str | tuple[str, ...] | None = None  # "all-linear", leaf names, or None: the method's default
    dropout: float = 0.0
    quant: QuantSpec | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    # the method's further fields: rslora, dora, init (lora, qlora); layers (last_layers); peft_type and config (peft);
    # path (saved); master_weights, dropout (full); those and vectors (truncate). Further constraints, absent at their
    # defaults: l2_sp, norm_ball, replay
    # (numbers), early_stop (its fields), wise_ft (shares of the update that are scored)


@dataclass(frozen=True)
class TrainSpec:
    """How a cell is trained, as far as it changes the result; the plan chooses micro-batch size and the like."""

    budget_tokens: int | None  # exactly one of the three budgets is set
    budget_epochs: float | None
    budget_steps: int | None
    seq_len: int  # tokens of a training sequence
    batch_tokens: int  # tokens of one optimiser step; a multiple of seq_len
    schedule: str  # constant | linear | cosine | wsd
    warmup: float  # share of the steps, 0 to 1
    weight_decay: float
    grad_clip: float  # 0: off
    betas: tuple[float, float]
    objective: str  # text | sft
    eval_at: tuple[float, ...]  # fractions of the budget, ascending, the last is 1.0
    precision: str  # auto | fp32 | bf16 | fp16
    optimizer: str  # auto | adamw
    engine: str  # native | trl
    too_long: str | None = None  # error | truncate | drop: examples longer than seq_len; None: not sft
    chat_template: str | None = None  # plain, or an absolute path; None: the model's own
    multi_lora: str | int = "auto"  # auto | off | the largest number of cells that are trained at once
    halving: int | None = None  # one in this many tuned rates continues at each of `halving_points`; None: all
    warmup_steps: int | None = None  # in place of `warmup`, which is then 0

    @property
    def budget(self) -> str:
        """The budget as a recipe writes it."""
        if self.budget_epochs is not None:
            return f"{self.budget_epochs:g} epoch{'s' * (self.budget_epochs != 1)}"
        if self.budget_steps is not None:
            return f"{self.budget_steps} step{'s' * (self.budget_steps != 1)}"
        thousands = self.budget_tokens is not None and self.budget_tokens % 1000 == 0
        return (
            f"{self.budget_tokens // 1000}k tokens"
            if thousands and self.budget_tokens
            else (f"{self.budget_tokens} tokens")
        )

    @property
    def halving_points(self) -> dict[int, float]:
        """The evaluations at which tuned cells are compared, as shares of the budget, by their number from 0."""
        points = enumerate(self.eval_at) if self.halving else ()
        return {n: share for n, share in points if is_at_peak_lr(share, self.schedule, self.warmup)}


def is_at_peak_lr(share: float, schedule: str, warmup: float) -> bool:
    """Whether the learning rate of a training is at its peak after a share of its budget: no decay has begun there."""
    end = {"constant": 1.0, "wsd": 1.0 - WSD_DECAY_SHARE}.get(schedule, 0.0)
    return warmup < share < 1 and share <= end


@dataclass(frozen=True)
class ScoreSpec:
    """How a text is scored."""

    context: int  # tokens of a window
    stride: int  # tokens newly scored by each window after the first
    tokens: int | None  # largest number of tokens of a split, by whole documents chosen by hash; None: all
    first_token: str  # bos | skip
    mode: str  # documents | stream


@dataclass(frozen=True)
class TaskSpec:
    """One multiple-choice task: where it is and how much of it is scored."""

    name: str  # short name, unique in the recipe
    source: str  # bundled/<name>, hub:<dataset>, or an absolute path
    split: str | None = None  # None: the test split, else all
    examples: int | None = None  # largest number of prompts, chosen by hash; None: all
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Cell:
    """One point of the grid: one training (or one saved adapter) and its scores."""

    recipe: str
    model: ModelSpec
    domain: CorpusSpec
    general: tuple[CorpusSpec, ...]
    method: MethodSpec
    seed: int
    train: TrainSpec
    score: ScoreSpec
    tasks: tuple[TaskSpec, ...] = ()
    replay: CorpusSpec | None = None  # its training split is replayed; None without `replay`
    early_stop_text: CorpusSpec | None = None  # its validation split ends the training; None without `early_stop`
