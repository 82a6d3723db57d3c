"""The state of one training between its steps: optimizer, log, early stopping, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from peftodyssey.models import lm_head, patching
from peftodyssey.training import checkpoint, cuda_graphs, early_stop, optim, regularizers, stem
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.grad_accumulation import AUTOCAST_DTYPES, GradAccumulator
from peftodyssey.training.retry_on_oom import StepRunner
from peftodyssey.training.settings import StepRecord, TrainCallbacks, TrainResult, TrainSettings

SEED_OFFSET = 1_000_003  # dropout draws other numbers than the adapters' initialization did
SAVE_END_AFTER_S = 30.0  # of unsaved training: its end is saved as well
MIN_LOSS_SCALE = 1.0  # fp16: below this the gradients overflow on their own, not because of the scale


class TrainingRun:
    """The state of one training between its steps, and what is done with it there."""

    def __init__(
        self,
        model: nn.Module,
        trainable: Mapping[str, nn.Parameter],
        settings: TrainSettings,
        device: torch.device,
        checkpoints: CheckpointSettings | None,
        callbacks: TrainCallbacks,
    ) -> None:
        self.model, self.trainable, self.settings, self.device = model, trainable, settings, device
        self.checkpoints, self.callbacks = checkpoints, callbacks
        self.step_runner = StepRunner(settings, device, self.release_gradients, callbacks.on_note)
        self.log: list[StepRecord] = []
        self.interrupted = False

    def start_or_resume(self, digest: str, stem_digest: str = "") -> None:
        """Builds the optimizer and its like, and loads the checkpoint if there is one, or else the state of the stem.

        `stem_digest` is that of `loop.stem_digest` where the training has a stem.
        """
        folder = self.checkpoints.folder if self.checkpoints else None
        state, self.resume_note = checkpoint.read(folder, digest)
        if state is None and self.checkpoints:
            state = stem.read(self.checkpoints.stem, stem_digest, self.settings)
        self.resume_digest, self.stem_digest = digest, stem_digest
        torch.manual_seed(self.settings.seed + SEED_OFFSET)
        self.optimizer = optim.build_optimizer(self.trainable, self.settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "fp16")
        regularized = self.settings.l2_sp or self.settings.norm_ball is not None
        self.updates = regularizers.track_updates(self.model, self.trainable) if regularized else []
        self.early_stop = early_stop.early_stopping(
            self.settings.early_stop, self.settings.steps, self.callbacks.general_nll
        )
        if state:
            self._load(state)
        self.resumed_from, self.last_saved = len(self.log), time.monotonic()

    def _load(self, state: checkpoint.SavedState) -> None:
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(state.tensors[f"parameter/{name}"])
        optim.load_state_tensors(self.optimizer, self.trainable, state.tensors)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        checkpoint.set_random_state(state.tensors, self.device)
        self.log = list(state.log)
        self.step_runner.resume(state)
        if self.early_stop:
            self.early_stop.load_state_tensors(state.tensors)

    @contextlib.contextmanager
    def patched_model(self) -> Iterator[GradAccumulator]:
        """In the body the model has faster modules and is in training mode; gives what computes its gradients."""
        backbone_and_head, dropout = lm_head.split_lm_head(self.model), SeededDropout()
        self.graphs = cuda_graphs.graph_cache(
            self.model, self.settings, self.device, self._grads, self.callbacks.on_note
        )
        compute = AUTOCAST_DTYPES.get(self.settings.precision)
        with (
            patching.patch_model(self.model, compute, dropout.drop) as autocast,
            optim.offload_hooks(self.optimizer),
            self.step_runner.training_mode(self.model),
        ):
            yield GradAccumulator(
                self.model,
                backbone_and_head,
                self.settings,
                self.device,
                autocast,
                dropout,
                self.scaler,
                self.graphs,
            )

    def _grads(self) -> list[torch.Tensor]:
        return [p.grad for p in self.trainable.values() if p.grad is not None]

    def release_gradients(self) -> None:
        """Frees the gradients, and the CUDA graphs that write to them."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.graphs:
            self.graphs.drop()

    def zero_grad(self) -> None:
        """Drops the gradients after an update; those that CUDA graphs write to stay where they are, as zeros."""
        self.optimizer.zero_grad(set_to_none=not (self.graphs and self.graphs.holds_graphs))

    def has_next_step(self) -> bool:
        """Whether another step is to be done: none after the last one, an early stop or an interruption."""
        if len(self.log) >= self.settings.last_step or (self.early_stop and self.early_stop.should_stop):
            return False
        self.interrupted = self.callbacks.should_stop()
        return not self.interrupted

    @property
    def overflow_expected(self) -> bool:
        """Whether fp16 gradients may be infinite, because the loss scale is still too large."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= MIN_LOSS_SCALE

    def regularize(self, lr: float) -> None:
        """Applies L2-SP and the norm ball to the weights after an update."""
        regularizers.apply_l2_sp(self.updates, lr, self.settings.l2_sp)
        if self.settings.norm_ball is not None:
            regularizers.project_to_norm_ball(self.updates, self.settings.norm_ball)

    def add_record(self, tokens: int, loss_nats: float, lr: float, grad_norm: float, seconds: float) -> None:
        """Logs a finished step."""
        total = tokens + (self.log[-1].tokens if self.log else 0)
        self.log.append(StepRecord(len(self.log) + 1, total, loss_nats, lr, grad_norm, seconds))
        self.callbacks.on_step(self.log[-1])

    def evaluate(self) -> None:
        """Calls `on_eval` where the settings ask for an evaluation after this step."""
        record = self.log[-1]
        if record.step in self.settings.eval_at_steps:
            self.release_gradients()
            with preserve_training_state(self.model, self.device):
                self.callbacks.on_eval(self.settings.eval_at_steps.index(record.step), record.step, record.tokens)

    def evaluate_early_stop(self) -> None:
        """Scores general text where early stopping asks for it after this step."""
        if self.early_stop and self.early_stop.is_due(len(self.log)):
            self.release_gradients()
            with preserve_training_state(self.model, self.device):
                self.early_stop.evaluate(len(self.log), self.trainable)

    def save_if_due(self) -> None:
        """Saves a checkpoint where the last one is old enough."""
        every_s = self.checkpoints.every_s if self.checkpoints else None
        if every_s is not None and time.monotonic() - self.last_saved >= every_s:
            self._save()

    def save_stem_if_due(self) -> None:
        """Saves the state of the stem where the decay begins and a larger budget starts from here."""
        if self.checkpoints and stem.is_due(self.checkpoints.stem, self.settings, len(self.log)):
            assert self.checkpoints.stem is not None
            stem.save(self.checkpoints.stem, self.stem_digest, self._state())

    def save_end(self) -> None:
        """Saves the end of a training too: what follows (scoring) may be interrupted."""
        if self.checkpoints is None or len(self.log) == self.resumed_from:
            return
        paused = self.interrupted or self.settings.stop_at_step is not None
        unsaved_s = time.monotonic() - self.last_saved if self.checkpoints.every_s is not None else 0.0
        if paused or unsaved_s >= SAVE_END_AFTER_S:
            self._save()

    def _save(self) -> None:
        assert self.checkpoints is not None
        checkpoint.save(self.checkpoints.folder, self._state())
        self.last_saved = time.monotonic()

    def _state(self) -> checkpoint.SavedState:
        tensors = {
            **{f"parameter/{name}": parameter for name, parameter in self.trainable.items()},
            **optim.state_tensors(self.optimizer, self.trainable),
            **checkpoint.random_state(self.device),
            **(self.early_stop.state_tensors() if self.early_stop else {}),
        }
        return checkpoint.SavedState(
            len(self.log),
            self.step_runner.memory_settings,
            self.step_runner.out_of_memory,
            self.resume_digest,
            self.scaler.state_dict(),
            tuple(self.log),
            tensors,
        )

    def result(self) -> TrainResult:
        """What the training did; early stopping leaves the best weights on the model."""
        steps = len(self.log)
        if self.early_stop and not self.interrupted:
            self.early_stop.restore_best(self.trainable)
            steps = self.early_stop.best_step
        last = self.log[steps - 1] if steps else None
        return TrainResult(
            steps=steps,
            tokens=last.tokens if last else 0,
            log=tuple(self.log),
            final_loss=last.loss_nats if last else math.nan,
            seconds=math.fsum(record.seconds for record in self.log),
            interrupted=self.interrupted,
            resumed_from=self.resumed_from,
            memory_settings=self.step_runner.memory_settings,
            out_of_memory=self.step_runner.out_of_memory,
            resume_note=self.resume_note,
            stopped_at_step=len(self.log) if steps < len(self.log) else None,
            general_rises_nats=tuple(self.early_stop.rises()) if self.early_stop else (),
        )


@contextlib.contextmanager
def preserve_training_state(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards the model is in training mode and the random states are what they were."""
    random_state = checkpoint.random_state(device)
    try:
        yield
    finally:
        checkpoint.set_random_state(random_state, device)
        model.train()
