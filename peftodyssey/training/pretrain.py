"""Pretraining from random weights: steps over a stream of tokens on the device.

Weights and AdamW's moments are float32, bf16 is autocast. Losses and gradient norms stay on the device until
`READ_EVERY` steps are done; until then the host does not wait. The data order is a function of seed and step, so a
checkpoint is weights, moments and step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from peftodyssey.corpora.packing import epoch_permutation
from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import host_memory
from peftodyssey.training import checkpoint, optim
from peftodyssey.training.settings import OnNote, StepRecord, TrainSettings
from peftodyssey.training.small_llama import SmallLlama
from peftodyssey.training.wsd_phases import Phase, lr_factor

READ_EVERY = 50  # steps between two waits for the device


@dataclass(frozen=True)
class PretrainSettings:
    """Hyperparameters of a ladder's pretraining, the same in all its phases, every `auto` resolved."""

    peak_lr: float
    seq_len: int  # tokens of a sequence
    batch_size: int  # sequences of a step
    micro_batch_size: int  # sequences of one forward and backward pass
    warmup_steps: int
    decay_share: float
    weight_decay: float
    betas: tuple[float, float]
    grad_clip: float
    precision: str  # fp32 | bf16
    compiled: bool
    seed: int

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.batch_size * self.seq_len


@dataclass(frozen=True)
class Stream:
    """The training text as one row of tokens on the device, read in sequences; an epoch visits each sequence once."""

    tokens: Tensor  # int32 [n]
    seq_len: int
    seed: int

    @property
    def num_sequences(self) -> int:
        """Whole sequences, the target of a sequence's last token included."""
        return (len(self.tokens) - 1) // self.seq_len

    def batch(self, step: int, batch_size: int) -> Tensor:
        """int64 [batch_size, seq_len + 1]: the sequences of `step` (from 0), each with the target of its last token."""
        indices = _sequence_indices(self.num_sequences, self.seed, step, batch_size, str(self.tokens.device))
        offsets = torch.arange(self.seq_len + 1, device=self.tokens.device)
        return self.tokens[indices[:, None] * self.seq_len + offsets].long()


@lru_cache(maxsize=3)
def _epoch(num_sequences: int, seed: int, epoch: int, device: str) -> Tensor:
    return torch.from_numpy(epoch_permutation(num_sequences, seed, epoch)).to(device)


def _sequence_indices(num_sequences: int, seed: int, step: int, batch_size: int, device: str) -> Tensor:
    """Indices of the sequences of a step: the permutations of all epochs end to end, cut into batches."""
    parts, position, missing = [], step * batch_size, batch_size
    while missing:
        epoch, first = divmod(position, num_sequences)
        part = _epoch(num_sequences, seed, epoch, device)[first : first + missing]
        parts.append(part)
        position, missing = position + len(part), missing - len(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Training:
    """A model in training: its weights and moments change, nothing else does."""

    model: SmallLlama
    optimizer: torch.optim.Optimizer
    stream: Stream
    settings: PretrainSettings
    loss: Callable[[Tensor], Tensor]  # [sequences, seq_len + 1] -> mean nats per token

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Every trained weight by name, tied ones once."""
        return dict(self.model.named_parameters())


def prepare(model: SmallLlama, stream: Stream, settings: PretrainSettings, on_note: OnNote) -> Training:
    """The model with its optimiser and its loss, compiled where the settings say so.

    Where it cannot be compiled, `on_note` is given a sentence at the first step.
    """
    adamw_settings = TrainSettings(
        lr=settings.peak_lr,
        steps=1,
        batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    optimizer = optim.build_optimizer(dict(model.named_parameters()), adamw_settings)

    def mean_nats(tokens_bt: Tensor) -> Tensor:
        logits_btv = model(tokens_bt[:, :-1])
        return F.cross_entropy(logits_btv.float().flatten(0, 1), tokens_bt[:, 1:].flatten())

    loss = _compiled_or_plain(mean_nats, on_note) if settings.compiled else mean_nats
    return Training(model, optimizer, stream, settings, loss)


def _compiled_or_plain(loss: Callable[[Tensor], Tensor], on_note: OnNote) -> Callable[[Tensor], Tensor]:
    """`loss` compiled at its first call; as it is, with a note, where it cannot be (no Triton, no C compiler)."""
    current = torch.compile(loss, dynamic=False, fullgraph=True)

    def call(tokens_bt: Tensor) -> Tensor:
        nonlocal current
        try:
            return current(tokens_bt)
        except Exception as error:
            if current is loss or host_memory.is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            on_note(f"the steps run without torch.compile, which makes them slower ({reason})")
            current = loss
            return loss(tokens_bt)

    return call


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 matrix products over fp32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


@dataclass
class Progress:
    """How far a phase is: the log, and the steps whose numbers are still on the device."""

    log: list[StepRecord]
    pending: list[tuple[Tensor, Tensor, float]]  # loss, gradient norm, learning rate
    since: float  # time.perf_counter() after the last step that was read


def run_phase(
    training: Training,
    phase: Phase,
    log: list[StepRecord],
    *,
    save: Callable[[], None],
    checkpoint_every_s: float,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Trains from step `len(log)` to the phase's end, adding to `log`; False where `should_stop` ended it.

    `save` is called every `checkpoint_every_s` and before it returns False. Raises TrainingError where the loss is not
    finite.
    """
    progress = Progress(log, [], time.perf_counter())
    saved = time.monotonic()
    for step in range(len(log), phase.stop):
        progress.pending.append(_step(training, phase, step))
        stopping = should_stop()
        if len(progress.pending) == READ_EVERY or step + 1 == phase.stop or stopping:
            _read(training, progress, on_step)
            if stopping and step + 1 < phase.stop:
                save()
                return False
            if time.monotonic() - saved >= checkpoint_every_s and step + 1 < phase.stop:
                save()
                saved, progress.since = time.monotonic(), time.perf_counter()
    return True


def _step(training: Training, phase: Phase, step: int) -> tuple[Tensor, Tensor, float]:
    """One optimiser step; loss and gradient norm stay on the device."""
    settings = training.settings
    batch = training.stream.batch(step, settings.batch_size)
    total = torch.zeros((), device=batch.device)
    for part in batch.split(settings.micro_batch_size):
        share = len(part) / len(batch)
        with autocast(settings.precision, batch.device):
            loss = training.loss(part)
        (loss * share).backward()
        total += loss.detach() * share
    lr = settings.peak_lr * lr_factor(phase, step, warmup_steps=settings.warmup_steps, decay_share=settings.decay_share)
    norm = optim.clip(training.optimizer, settings.grad_clip)
    optim.set_lr(training.optimizer, lr)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return total, norm, lr


def _read(training: Training, progress: Progress, on_step: Callable[[StepRecord], None]) -> None:
    """Fetches the numbers of the pending steps in one wait; each is logged with an equal share of the time."""
    losses = torch.stack([loss for loss, _, _ in progress.pending]).tolist()
    norms = torch.stack([norm for _, norm, _ in progress.pending]).tolist()
    now = time.perf_counter()
    seconds = (now - progress.since) / len(losses)
    for loss, norm, (_, _, lr) in zip(losses, norms, progress.pending, strict=True):
        step = len(progress.log) + 1
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {step} is {loss}", "lower train.peak_lr or lengthen train.warmup_steps"
            )
        record = StepRecord(step, step * training.settings.step_tokens, loss, lr, norm, seconds)
        progress.log.append(record)
        on_step(record)
    progress.pending.clear()
    progress.since = now


def save(training: Training, folder: Path, resume_digest: str, log: list[StepRecord]) -> None:
    """Replaces the checkpoint in `folder` by the training after `len(log)` steps."""
    parameters = training.parameters
    tensors = {f"weight/{name}": p.detach() for name, p in parameters.items()}
    tensors |= optim.state_tensors(training.optimizer, parameters)
    memory_settings = MemorySettings(training.settings.micro_batch_size)
    checkpoint.save(
        folder, checkpoint.SavedState(len(log), memory_settings, (), resume_digest, {}, tuple(log), tensors)
    )


def restore(training: Training, folder: Path, resume_digest: str) -> tuple[list[StepRecord] | None, str]:
    """Loads what `save` wrote; (its log, or None where there is no usable checkpoint, and why).

    Raises TrainingError where the checkpoint is another training's.
    """
    state, note = checkpoint.read(folder, resume_digest)
    if state is None:
        return None, note
    parameters = training.parameters
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.tensors[f"weight/{name}"])
    optim.load_state_tensors(training.optimizer, parameters, state.tensors)
    return list(state.log), note


def mean_nats(model: SmallLlama, weights: Mapping[str, Tensor], tokens: Tensor, seq_len: int, precision: str) -> float:
    """Mean nats per token of `tokens` (int32 [n]) in whole sequences, with `weights` in place of the model's own."""
    num_sequences = (len(tokens) - 1) // seq_len
    offsets = torch.arange(seq_len + 1, device=tokens.device)
    indices = torch.arange(num_sequences, device=tokens.device)[:, None] * seq_len + offsets
    total = 0.0
    with torch.no_grad(), autocast(precision, tokens.device):
        for rows in indices.split(max(1, 16_384 // seq_len)):
            batch = tokens[rows].long()
            logits_btv = torch.func.functional_call(model, dict(weights), (batch[:, :-1],))
            total += F.cross_entropy(logits_btv.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (num_sequences * seq_len)
