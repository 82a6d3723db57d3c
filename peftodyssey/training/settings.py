"""What a training is told, what it logs per step and what it returns: plain frozen data, no torch.

`jobs.adapt` fills `TrainSettings` from a cell, `train.loop` and `train.trl_bridge` read it; `plan` may import
this file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from peftodyssey.errors import TrainingError

SCHEDULES = ("constant", "linear", "cosine", "wsd")
PRECISIONS = ("fp32", "bf16", "fp16")
GRADIENT_CHECKPOINTING = ("none", "selective", "full")
OPTIMIZERS = ("adamw", "adamw8bit")
NOT_IN_DIGEST = frozenset(
    {
        "micro_batch_size",
        "gradient_checkpointing",
        "offload_activations",
        "offload_optimizer",
        "loss_chunk_bytes",
        "budget_bytes",
        "eval_at_steps",
        "stop_at_step",
    }
)  # fields that do not change the trained weights
ADDED_FIELDS = {
    "l2_sp": 0.0,
    "norm_ball": None,
    "replay": 0.0,
    "early_stop": None,
}  # at these, a state saved without them goes on


@dataclass(frozen=True)
class EarlyStopSettings:
    """How much worse general text may become, how often it is looked at, and how many looks above it in a row end a
    training.
    """

    general_nats: float
    patience: int
    num_evals: int


@dataclass(frozen=True)
class TrainSettings:
    """One training's numbers, with every `auto` resolved. A block is `seq_len` tokens, a step
    `batch_size` blocks.
    """

    lr: float  # peak learning rate
    steps: int  # optimiser steps in all
    batch_size: int  # blocks of one optimiser step
    micro_batch_size: int = 1  # blocks of one forward and backward; does not change the result
    schedule: str = "cosine"  # constant | linear | cosine | wsd
    warmup: float = 0.0  # share of the steps, 0..1
    weight_decay: float = 0.0  # on matrices (two or more dimensions) only
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    grad_clip: float = 1.0  # largest global gradient norm; 0: off
    precision: str = "fp32"  # fp32: no autocast; bf16, fp16: autocast, fp16 with a scaled loss
    gradient_checkpointing: str = (
        "none"  # none | selective (feed-forwards) | full (layers): computed again in the backward pass
    )
    offload_activations: bool = False  # with gradient checkpointing full: the layers' inputs wait in pinned host memory
    offload_optimizer: bool = False  # gradients and optimiser states live in pinned host memory
    loss_chunk_bytes: int | None = None  # float32 logits alive at a time; None: by the device
    budget_bytes: int | None = None  # CPU: resident bytes above which a micro-batch counts as too large; None: no limit
    seed: int = 0  # data order and dropout
    optimizer: str = "adamw"
    l2_sp: float = 0.0  # pull to the start, per step and unit of learning rate; 0: none
    norm_ball: float | None = None  # longest change of a matrix as a share of its norm; None: any
    replay: float = 0.0  # share of general text among the trained tokens, beside the target text
    early_stop: EarlyStopSettings | None = None  # how much worse the general text may become; None: by any amount
    eval_at_steps: tuple[int, ...] = ()  # after how many steps `on_point` is called, ascending
    stop_at_step: int | None = None  # stop there for now, with the state saved; None: train to the end

    @property
    def warmup_steps(self) -> int:
        """Steps of rising learning rate; a share is rounded up, as the Trainer's is, but one step is left."""
        return min(math.ceil(self.steps * self.warmup), self.steps - 1)

    @property
    def last_step(self) -> int:
        """The step after which to stop, for now or for good."""
        return self.steps if self.stop_at_step is None else min(self.steps, self.stop_at_step)

    @property
    def l2_sp_cancels_update(self) -> bool:
        """Whether the pull of one step takes back all that was moved, so that a training that moved nothing is as it
        should be.
        """
        return self.lr * self.l2_sp >= 1

    def digest(self) -> str:
        """SHA-256 hex of the fields that change the trained weights; tells whether a saved state belongs
        here.
        """
        off = {name for name, default in ADDED_FIELDS.items() if getattr(self, name) == default}
        science = {name: value for name, value in asdict(self).items() if name not in NOT_IN_DIGEST | off}
        return hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()

    def problems(self) -> list[str]:
        """Everything that is wrong with the values, in words; empty where all is well."""
        found = [
            f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
            for name, allowed in (
                ("schedule", SCHEDULES),
                ("precision", PRECISIONS),
                ("gradient_checkpointing", GRADIENT_CHECKPOINTING),
                ("optimizer", OPTIMIZERS),
            )
            if getattr(self, name) not in allowed
        ]
        found += [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in ("steps", "batch_size", "micro_batch_size")
            if getattr(self, name) < 1
        ]
        found += [
            f"{name} is {getattr(self, name)}; it must be finite and not negative"
            for name in ("weight_decay", "grad_clip", "warmup", "eps", "l2_sp", "replay")
            if not 0 <= getattr(self, name) < math.inf
        ]
        if not 0 < self.lr < math.inf:
            found.append(f"lr is {self.lr}; it must be finite and above 0")
        if self.replay >= 1:
            found.append(f"replay is {self.replay}; it is a share of the trained tokens, below 1")
        if self.warmup > 1:
            found.append(f"warmup is {self.warmup}; it is a share of the steps, 0..1")
        return found

    def check(self) -> None:
        """Raises TrainingError that lists all `problems`."""
        if found := self.problems():
            raise TrainingError(
                "these training settings cannot be used: " + "; ".join(found), "mend them in the recipe"
            )


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step, as it is written to log.parquet."""

    step: int  # from 1
    tokens: int  # trained tokens (labels) so far, this step included
    loss_nats: float  # mean negative log-likelihood per trained token of the step's batch, before the update
    lr: float  # learning rate of this update
    grad_norm: float  # global norm before clipping; inf where fp16 overflowed and the update was skipped
    seconds: float  # wall time of the step, without scoring and checkpoints


LOG_FIELDS = tuple(field.name for field in fields(StepRecord))


@dataclass(frozen=True)
class TrainResult:
    """What a training did. `seconds` is the sum over all its steps, those before a resume included,
    without scoring.
    """

    steps: int  # of the weights that it left
    tokens: int  # trained tokens that these have seen
    log: tuple[StepRecord, ...]
    final_loss: float  # nats per token of the last step's batch
    seconds: float
    interrupted: bool
    resumed_from: int  # the step it went on from; 0: from the start
    micro_batch_size_used: int  # smaller than asked for where memory ran out
    gradient_checkpointing_used: str  # none | selective | full: leaner than asked for where memory ran out
    activations_offloaded: bool = False  # the layers' inputs waited in host memory
    out_of_memory: tuple[
        str, ...
    ] = ()  # what did not fit, at which step, and how it went on; those before a resume too
    resume_note: str = ""  # why a saved state was not used, or ""
    stopped_at_step: int | None = None  # where general text had become too much worse; `steps` is then an earlier one
    general_rises_nats: tuple[
        tuple[int, float], ...
    ] = ()  # (step, rise of general text's NLL), where an early stop looked


OnStep = Callable[[StepRecord], None]
OnEval = Callable[[int, int, int], None]  # index into eval_at_steps, step, trained tokens so far
ShouldStop = Callable[[], bool]
OnNote = Callable[[str], None]
