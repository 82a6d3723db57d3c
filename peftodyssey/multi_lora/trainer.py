"""Several LoRA trainings over one frozen base at once, each ending where it would have ended alone.

Each member keeps its own data order, number of tokens, learning rate, schedule, weight decay and clipping; its loss is
normalized by its own tokens; its checkpoint is that of a training of it alone. A member that ends or diverges leaves,
and the others continue. Members that end after the same step leave together.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import lm_head, patching
from peftodyssey.multi_lora import adamw
from peftodyssey.multi_lora import state as banks_state
from peftodyssey.multi_lora.adapters import Adapter, InitialState, on_host, read_state
from peftodyssey.multi_lora.linear import patch_linears
from peftodyssey.training import checkpoint, cuda_graphs, grad_accumulation, sampler, schedule, stem
from peftodyssey.training.checkpoint import StemCheckpoint
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.grad_accumulation import AUTOCAST_DTYPES, Batch, GradAccumulator
from peftodyssey.training.loop import require_finite
from peftodyssey.training.retry_on_oom import StepRunner
from peftodyssey.training.settings import NO_CALLBACKS, OnStep, StepRecord, TrainCallbacks, TrainResult, TrainSettings
from peftodyssey.training.training_run import preserve_training_state

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

OnMemberEval = Callable[[int, int, int, Adapter], None]  # index into eval_at_steps, step, tokens, the current adapter
OnEnd = Callable[[Sequence["Member"]], None]  # members that have ended after the same step


@dataclass
class Member:
    """One of the trainings: its settings, data and initial weights, and how far it is."""

    settings: TrainSettings
    sequences: PackedSequences
    start: Adapter  # its initial weights, in the type they are kept in
    state_folder: Path
    resume_digest: str  # `loop.resume_digest` of the same training alone
    stem: StemCheckpoint | None = None
    stem_digest: str = ""  # `loop.stem_digest` of the same training alone, where it has a stem
    on_step: OnStep | None = None
    on_eval: OnMemberEval | None = None
    log: list[StepRecord] = field(default_factory=list)
    failed: TrainingError | None = None
    resumed_from: int = 0
    memory_settings: MemorySettings | None = None  # of its last step
    out_of_memory: tuple[str, ...] = ()  # how often memory ran out meanwhile
    end: Adapter | None = None  # its weights at its end

    @property
    def done(self) -> bool:
        """Whether it failed or has no steps left."""
        return self.failed is not None or len(self.log) >= self.settings.last_step

    @property
    def weights(self) -> Adapter:
        """The weights of a member that has ended."""
        assert self.end is not None, "the member has not ended"
        return self.end

    def result(self) -> TrainResult:
        """What a training of it alone returns; of a member that has ended."""
        assert self.memory_settings is not None, "the member has not ended"
        last = self.log[-1]
        return TrainResult(
            steps=last.step,
            tokens=last.tokens,
            log=tuple(self.log),
            final_loss=last.loss_nats,
            seconds=math.fsum(record.seconds for record in self.log),
            interrupted=False,
            resumed_from=self.resumed_from,
            memory_settings=self.memory_settings,
            out_of_memory=self.out_of_memory,
        )


def train_adapters(
    model: nn.Module,
    members: Sequence[Member],
    *,
    device: str | torch.device,
    checkpoint_every_s: float | None = None,
    callbacks: TrainCallbacks = NO_CALLBACKS,
    on_end: OnEnd = lambda ended: None,
) -> bool:
    """Trains all members to their ends, from their checkpoints where there are some; False where it was interrupted.

    `model` is the frozen base without adapters. Of `callbacks` it calls `should_stop` and `on_note`. `Member.failed`
    says why a member ended early. Where members reach their ends every member's state is saved, so that the others
    resume among the same members, and `on_end` is called with those that ended: `model` is then the bare base with its
    own modules, which `on_end` may use and leaves as it was. Whatever `on_end` raises goes through. Raises
    TrainingError where nothing fits the memory or a checkpoint belongs to another training.
    """
    trainer = _MultiLoraTrainer(model, members, torch.device(device), callbacks)
    while trainer.retire_finished(on_end):
        with trainer.patched_model() as accumulator:
            while not any(member.done for member in trainer.active_members):
                if callbacks.should_stop():
                    trainer.save()
                    return False
                begun = time.perf_counter()
                active = trainer.active_members
                batches = [grad_accumulation.batch(m.sequences, m.settings, len(m.log)) for m in active]
                gradients = functools.partial(accumulator.accumulate, batches)
                losses = trainer.step_runner.run(len(active[0].log) + 1, gradients)
                trainer.update(losses, batches, begun)
                trainer.evaluate()
                trainer.save_stems()
                if checkpoint_every_s is not None and time.monotonic() - trainer.last_saved >= checkpoint_every_s:
                    trainer.save()
    return True


class _MultiLoraTrainer:
    """The active members, their banks, and what is done with them between two steps."""

    def __init__(
        self, model: nn.Module, members: Sequence[Member], device: torch.device, callbacks: TrainCallbacks
    ) -> None:
        self.model, self.members, self.device, self.callbacks = model, members, device, callbacks
        self.settings = members[0].settings
        self.compute = AUTOCAST_DTYPES.get(self.settings.precision)
        self.backbone_and_head = lm_head.split_lm_head(model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        self.step_runner = StepRunner(self.settings, device, self.drop_gradients, callbacks.on_note)
        self.adapters_disabled = False
        self.last_saved = time.monotonic()
        starts = [self._start(member) for member in members]
        self.banks = banks_state.stack_adapters(dict(enumerate(starts)), device)
        self.banks.update_compute_copies(self.compute)
        has_dropout = any(probability for bucket in self.banks.buckets for probability in bucket.dropout)
        self.graphs = (
            None
            if has_dropout
            else cuda_graphs.graph_cache(model, self.settings, device, self._grads, callbacks.on_note)
        )

    def _grads(self) -> list[Tensor]:
        return [bucket.grads for bucket in self.banks.buckets]

    def _start(self, member: Member) -> InitialState:
        """The weights and moments with which a member joins: its initial ones, or those of its checkpoint."""
        member.settings.check()
        sampler.require_trained_tokens(member.sequences)
        state, _ = checkpoint.read(member.state_folder, member.resume_digest)
        state = state or stem.read(member.stem, member.stem_digest, member.settings)
        if state is None:
            return InitialState(member.start, None)
        member.log[:] = state.log
        member.resumed_from = len(state.log)
        if state.out_of_memory:
            self.step_runner.resume(state)
        return read_state(state.tensors, member.start)

    @property
    def active_members(self) -> list[Member]:
        """The members in the order of their rows."""
        return [self.members[number] for number in self.banks.order]

    @contextlib.contextmanager
    def patched_model(self) -> Iterator[GradAccumulator]:
        """In the body the model has the banks and faster modules; gives what computes the gradients."""
        dropout = SeededDropout()
        with (
            patching.patch_model(self.model, self.compute) as autocast,  # first: it tests the base's own modules
            patch_linears(self.model, lambda: None if self.adapters_disabled else self.banks, dropout),
            self.step_runner.training_mode(self.model),
        ):
            yield GradAccumulator(
                self.model,
                self.backbone_and_head,
                self.settings,
                self.device,
                autocast,
                dropout,
                self.scaler,
                self.graphs,
            )

    def drop_gradients(self) -> None:
        """Zeroes what a failed attempt has added."""
        for bucket in self.banks.buckets:
            bucket.grads.zero_()
        self._drop_graphs()

    def _drop_graphs(self) -> None:
        """Graphs use memory and refer to the banks that they were captured with."""
        if self.graphs:
            self.graphs.drop()

    def update(self, losses: Tensor, batches: Sequence[Batch], begun: float) -> None:
        """Applies every member's gradients and logs its step; a member whose numbers are not finite fails."""
        active = self.active_members
        updates = [
            adamw.MemberUpdate(m.settings, len(m.log) + 1, schedule.learning_rate(m.settings, len(m.log)))
            for m in active
        ]
        norms = adamw.grad_norms(self.banks)
        adamw.update(self.banks, norms, updates)
        self.banks.update_compute_copies(self.compute)
        loss_nats, grad_norms = torch.stack([losses, norms.to(losses)]).tolist()  # one wait for the device per step
        seconds = (time.perf_counter() - begun) / len(active)
        for member, batch, update, loss, norm in zip(active, batches, updates, loss_nats, grad_norms, strict=True):
            try:
                require_finite(update.step, loss, norm, update.lr, False)
            except TrainingError as error:
                member.failed = error
                continue
            tokens = batch.tokens + (member.log[-1].tokens if member.log else 0)
            member.log.append(StepRecord(update.step, tokens, loss, update.lr, norm, seconds))
            if member.on_step:
                member.on_step(member.log[-1])

    def evaluate(self) -> None:
        """Calls `on_eval` of the members that are to be evaluated after this step, with the base's own modules."""
        for number in sorted(self.banks.order):
            member = self.members[number]
            step, eval_steps = len(member.log), member.settings.eval_at_steps
            if member.on_eval and not member.failed and step in eval_steps:
                self._drop_graphs()
                with preserve_training_state(self.model, self.device):
                    self.adapters_disabled = True
                    adapter = banks_state.extract_adapter(self.banks, number, member.start)
                    member.on_eval(eval_steps.index(step), step, member.log[-1].tokens, adapter)
                    self.adapters_disabled = False

    def retire_finished(self, on_end: OnEnd) -> bool:
        """Removes the members that are done and calls `on_end` with those that reached their ends; False: none is left.

        Meanwhile the parameters and moments of the others wait in host memory.
        """
        leaving = [number for number in self.banks.order if self.members[number].done]
        if not leaving:
            return True
        ended = [number for number in sorted(leaving) if not self.members[number].failed]
        self._drop_graphs()
        if ended:
            self.save()
        for number in ended:
            member = self.members[number]
            member.end = on_host(banks_state.extract_adapter(self.banks, number, member.start))
            member.memory_settings = self.step_runner.memory_settings
            member.out_of_memory = tuple(self.step_runner.out_of_memory)
        self.banks = banks_state.drop_members(self.banks, leaving)
        if ended:
            with preserve_training_state(self.model, self.device):
                self.banks = banks_state.to_host(self.banks)
                on_end([self.members[number] for number in ended])
                self.banks = banks_state.to_device(self.banks, self.device)
                self.banks.update_compute_copies(self.compute)
        return bool(self.banks.order)

    def save(self) -> None:
        """Saves the state of every member that has not failed, each as that of a training of it alone."""
        for number in self.banks.order:
            if not self.members[number].failed:
                self._save(number)
        self.last_saved = time.monotonic()

    def save_stems(self) -> None:
        """Saves the states of the members whose decay begins and from which a larger budget starts."""
        for number in self.banks.order:
            member = self.members[number]
            if member.stem and not member.failed and stem.is_due(member.stem, member.settings, len(member.log)):
                stem.save(member.stem, member.stem_digest, self._state(number))

    def _save(self, number: int) -> None:
        checkpoint.save(self.members[number].state_folder, self._state(number))

    def _state(self, number: int) -> checkpoint.SavedState:
        member = self.members[number]
        tensors = banks_state.checkpoint_tensors(self.banks, number, member.start, len(member.log))
        return checkpoint.SavedState(
            len(member.log),
            self.step_runner.memory_settings,
            self.step_runner.out_of_memory,
            member.resume_digest,
            self.scaler.state_dict(),
            tuple(member.log),
            tensors | checkpoint.random_state(self.device),
        )
