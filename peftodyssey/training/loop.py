"""The training loop: every method, one device. `train` reads from top to bottom."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from peftodyssey.errors import TrainingError
from peftodyssey.training import grad_accumulation, optim, sampler, schedule
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.settings import NO_CALLBACKS, TrainCallbacks, TrainResult, TrainSettings
from peftodyssey.training.training_run import TrainingRun

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences


def train(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    sequences: PackedSequences,
    settings: TrainSettings,
    *,
    device: str | torch.device,
    checkpoints: CheckpointSettings | None = None,
    callbacks: TrainCallbacks = NO_CALLBACKS,
) -> TrainResult:
    """Trains the parameters in `trainable` on `sequences`, in place; resumes from a checkpoint where there is one.

    Raises TrainingError: settings that cannot be used, nothing to train on, a loss that is not finite, no memory for
    one sequence, a checkpoint of another training.
    """
    settings.check()
    sampler.require_trained_tokens(sequences)
    _require_same_parameters(model, trainable)
    run = TrainingRun(model, trainable, settings, torch.device(device), checkpoints, callbacks)
    has_stem = checkpoints is not None and checkpoints.stem is not None
    run.start_or_resume(
        resume_digest(trainable, sequences, settings), stem_digest(trainable, sequences, settings) if has_stem else ""
    )
    with run.patched_model() as accumulator:
        run.evaluate_early_stop()
        while run.has_next_step():
            begun = time.perf_counter()
            step = len(run.log)
            lr = schedule.learning_rate(settings, step)
            batch = grad_accumulation.batch(sequences, settings, step)

            gradients = functools.partial(accumulator.accumulate, [batch])  # forward and backward, by micro-batches
            (loss,) = run.step_runner.run(step + 1, gradients)
            run.scaler.unscale_(run.optimizer)
            norm = optim.clip(run.optimizer, settings.grad_clip)
            loss_nats, grad_norm = torch.stack([loss, norm.to(loss)]).tolist()  # one wait for the device per step
            require_finite(step + 1, loss_nats, grad_norm, lr, run.overflow_expected)

            optim.set_lr(run.optimizer, lr)
            run.scaler.step(run.optimizer)
            run.scaler.update()
            run.zero_grad()
            run.regularize(lr)

            run.add_record(batch.tokens, loss_nats, lr, grad_norm, time.perf_counter() - begun)
            run.evaluate()
            run.evaluate_early_stop()
            run.save_if_due()
            run.save_stem_if_due()
        run.save_end()
    return run.result()


def resume_digest(trainable: Mapping[str, nn.Parameter], sequences: PackedSequences, settings: TrainSettings) -> str:
    """SHA-256 hex of settings, sequences and trained parameters; a checkpoint resumes only with the same digest."""
    return _digest(settings.digest(), trainable, sequences)


def stem_digest(trainable: Mapping[str, nn.Parameter], sequences: PackedSequences, settings: TrainSettings) -> str:
    """The same of the steps before the decay of `wsd`: equal for trainings that differ in their budget alone."""
    return _digest(settings.stem_digest(), trainable, sequences)


def _digest(settings_digest: str, trainable: Mapping[str, nn.Parameter], sequences: PackedSequences) -> str:
    weights = [(name, tuple(p.shape), str(p.dtype)) for name, p in trainable.items()]
    return hashlib.sha256(repr((settings_digest, sampler.digest(sequences), weights)).encode()).hexdigest()


def _require_same_parameters(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> None:
    wanted = {id(parameter) for parameter in trainable.values()}
    with_grad = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert wanted == with_grad, "what requires gradients must be what is trained"
    assert wanted, "there are no parameters to train"


def require_finite(step: int, loss_nats: float, grad_norm: float, lr: float, overflow_expected: bool) -> None:
    """Raises TrainingError before a broken update is applied; with `overflow_expected` only the loss must be finite."""
    if math.isfinite(loss_nats) and (math.isfinite(grad_norm) or overflow_expected):
        return
    what, value = ("gradient norm", grad_norm) if math.isfinite(loss_nats) else ("loss", loss_nats)
    raise TrainingError(
        f"the {what} is {value} at step {step} (learning rate {lr:.3g})",
        "try a smaller lr or a longer warmup; with precision fp16, try bf16 or fp32",
    )
