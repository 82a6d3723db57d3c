"""Settings, callbacks, step records and result of a training: plain frozen data, no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import GRADIENT_CHECKPOINTING, MemorySettings

SCHEDULES = ("constant", "linear", "cosine", "wsd")
PRECISIONS = ("fp32", "bf16", "fp16")
STATE_FILE = "state.json"  # of a checkpoint: its numbers, and the name of its file of tensors
OPTIMIZERS = ("adamw", "adamw8bit")
NOT_IN_DIGEST = frozenset(
    {field.name for field in fields(MemorySettings)}
    | {"loss_chunk_bytes", "budget_bytes", "eval_at_steps", "stop_at_step"}
)  # fields that do not change the trained weights


@dataclass(frozen=True)
class EarlyStopSettings:
    """Stop once `patience` evaluations in a row find general text more than `general_nats` worse than at the start."""

    general_nats: float  # allowed rise of the NLL of general text, nats per token
    patience: int
    num_evals: int  # evaluations over the whole training, besides the one before the first step


@dataclass(frozen=True, kw_only=True)
class TrainSettings(MemorySettings):
    """Hyperparameters of one training, with every `auto` resolved. A sequence is `seq_len` tokens."""

    lr: float  # peak learning rate
    steps: int  # optimizer steps in all
    batch_size: int  # sequences of one optimizer step
    schedule: str = "cosine"  # constant | linear | cosine | wsd
    warmup: float = 0.0  # share of the steps, 0..1
    weight_decay: float = 0.0  # on matrices (two or more dimensions) only
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    grad_clip: float = 1.0  # largest global gradient norm; 0: off
    precision: str = "fp32"  # fp32: no autocast; bf16, fp16: autocast, fp16 with a scaled loss
    loss_chunk_bytes: int | None = None  # bytes of float32 logits alive at a time; None: by the device
    budget_bytes: int | None = None  # CPU: resident bytes above which a micro-batch counts as too large; None: no limit
    seed: int = 0  # data order and dropout
    optimizer: str = "adamw"  # adamw | adamw8bit
    l2_sp: float = 0.0  # strength of the pull to the initial weights, per step and unit of learning rate; 0: off
    norm_ball: float | None = None  # largest change of a matrix as a share of its Frobenius norm; None: no limit
    replay: float = 0.0  # share of general text among the trained tokens, 0..1
    early_stop: EarlyStopSettings | None = None  # None: train to the end whatever happens to general text
    eval_at_steps: tuple[int, ...] = ()  # steps after which `TrainCallbacks.on_eval` is called, ascending
    stop_at_step: int | None = None  # stop there with the state saved, to be resumed later; None: train to the end
    warmup_amount: int | None = None  # steps of warmup, in place of `warmup`; None: the share

    @property
    def warmup_steps(self) -> int:
        """Steps of rising learning rate: the share rounded up, as transformers' Trainer does, at most all but one."""
        steps = math.ceil(self.steps * self.warmup) if self.warmup_amount is None else self.warmup_amount
        return min(steps, self.steps - 1)

    @property
    def last_step(self) -> int:
        """The step after which this call stops."""
        return self.steps if self.stop_at_step is None else min(self.steps, self.stop_at_step)

    @property
    def l2_sp_cancels_update(self) -> bool:
        """Whether L2-SP undoes the whole update of a step, so that unchanged weights are no error."""
        return self.lr * self.l2_sp >= 1

    def digest(self) -> str:
        """SHA-256 hex of the fields that change the trained weights; a saved state resumes only with the same."""
        return _sha256(self._hashed())

    def stem_digest(self) -> str:
        """SHA-256 hex of what trainings have in common whose steps before the decay of `wsd` are the same."""
        return _sha256({**self._hashed(), "steps": None, "warmup": None, "warmup_amount": self.warmup_steps})

    def _hashed(self) -> dict[str, Any]:
        hashed = {name: value for name, value in asdict(self).items() if name not in NOT_IN_DIGEST}
        if self.warmup_amount is None:  # so that a state that was saved before there was this field resumes
            del hashed["warmup_amount"]
        return hashed

    def problems(self) -> list[str]:
        """What is wrong with the values, one sentence each; empty where nothing is."""
        choices = {
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "gradient_checkpointing": GRADIENT_CHECKPOINTING,
            "optimizer": OPTIMIZERS,
        }
        problems = [
            f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]
        problems += [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in ("steps", "batch_size", "micro_batch_size")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} is {getattr(self, name)}; it must be finite and not negative"
            for name in ("weight_decay", "grad_clip", "warmup", "eps", "l2_sp", "replay")
            if not 0 <= getattr(self, name) < math.inf
        ]
        if not 0 < self.lr < math.inf:
            problems.append(f"lr is {self.lr}; it must be finite and above 0")
        if self.replay >= 1:
            problems.append(f"replay is {self.replay}; it is a share of the trained tokens, below 1")
        if self.warmup > 1:
            problems.append(f"warmup is {self.warmup}; it is a share of the steps, 0..1")
        return problems

    def check(self) -> None:
        """Raises TrainingError that lists all `problems`."""
        if problems := self.problems():
            raise TrainingError(
                "these training settings cannot be used: " + "; ".join(problems), "change them in the recipe"
            )


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step, as it is written to log.parquet."""

    step: int  # from 1
    tokens: int  # trained tokens (labels) so far, this step included
    loss_nats: float  # mean negative log-likelihood per trained token of the step's batch, before the update
    lr: float  # learning rate of this update
    grad_norm: float  # global norm before clipping; inf where fp16 overflowed and the update was skipped
    seconds: float  # wall time of the step, without evaluations and checkpoints


LOG_FIELDS = tuple(field.name for field in fields(StepRecord))
OnStep = Callable[[StepRecord], None]
OnEval = Callable[[int, int, int], None]  # index into eval_at_steps, step, trained tokens so far
OnNote = Callable[[str], None]


@dataclass(frozen=True)
class TrainCallbacks:
    """What a training calls between its steps.

    `on_eval` may score the model in any mode; a resumed training does not repeat the call. `should_stop` is called
    before every step; where it is True the state is saved and the result is `interrupted`. `on_note` is given sentences
    for the user, such as how a step was retried after it ran out of memory.
    """

    on_step: OnStep = lambda record: None
    on_eval: OnEval = lambda index, step, tokens: None
    should_stop: Callable[[], bool] = lambda: False
    on_note: OnNote = lambda sentence: None
    general_nll: Callable[[], float] | None = None  # NLL of general text in nats per token, for `early_stop`


NO_CALLBACKS = TrainCallbacks()


@dataclass(frozen=True)
class TrainResult:
    """What a training did; counts and seconds include the steps before a resume."""

    steps: int  # of the weights that are left on the model
    tokens: int  # trained tokens that these weights have seen
    log: tuple[StepRecord, ...]
    final_loss: float  # nats per token of the last of these steps' batch
    seconds: float  # of all steps, without evaluations
    interrupted: bool
    resumed_from: int  # step of the checkpoint that was loaded; 0: none
    memory_settings: MemorySettings  # of the last step; smaller than asked for where memory ran out
    out_of_memory: tuple[str, ...] = ()  # one sentence for each time that memory ran out: at which step, what followed
    resume_note: str = ""  # why a saved state was not used, or ""
    stopped_at_step: int | None = None  # where `early_stop` ended the training; `steps` is then an earlier step
    general_rises_nats: tuple[tuple[int, float], ...] = ()  # (step, rise of general text's NLL) of `early_stop`
