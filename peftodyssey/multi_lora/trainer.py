"""Several LoRA trainings over one frozen base at once, each ending where it would have ended alone.

`jobs.fleet` calls `train_fleet`. Each member keeps its own data order, number of tokens, learning rate, schedule, decay
and clipping; its loss is normalised by its own tokens; its state on disk is that of a training of its own. A member
that ends or diverges leaves, and the fleet sails on without it.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peftodyssey.errors import TrainingError
from peftodyssey.models import patching
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.multi_lora import adamw
from peftodyssey.multi_lora import state as banking
from peftodyssey.multi_lora.adapters import Adapter, InitialState, start_of
from peftodyssey.multi_lora.linear import patch_linears
from peftodyssey.training import checkpoint, cuda_graphs, grad_accumulation, sampler, schedule
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.loop import preserve_training_state, require_finite
from peftodyssey.training.memory_settings import memory_settings
from peftodyssey.training.retry_on_oom import retry_on_oom
from peftodyssey.training.settings import OnNote, OnStep, ShouldStop, StepRecord, TrainSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

OnMemberEval = Callable[[int, int, int, Adapter], None]  # index into eval_at_steps, step, tokens, the adapter then


@dataclass
class Member:
    """One training of a fleet: what it is told, where its state lies, and how far it is."""

    settings: TrainSettings
    blocks: PackedSequences
    start: Adapter  # its first weights, in the type they are kept in
    state_folder: Path
    belongs_to: str  # `loop.belongs_to` of the same training alone
    on_step: OnStep | None = None
    on_eval: OnMemberEval | None = None
    log: list[StepRecord] = field(default_factory=list)
    failed: TrainingError | None = None

    @property
    def done(self) -> bool:
        """Whether it has nothing left to do in the fleet."""
        return self.failed is not None or len(self.log) >= self.settings.last_step


def train_adapters(
    model: nn.Module,
    members: Sequence[Member],
    *,
    device: str | torch.device,
    checkpoint_every_s: float | None = None,
    should_stop: ShouldStop | None = None,
    on_note: OnNote | None = None,
) -> bool:
    """Trains all members from where their folders say they are to their ends, which are saved there; False:
    interrupted.

    `model` is the frozen base without adapters. What a member's `failed` says ended it alone. Raises TrainingError
    where nothing fits the memory or a folder holds a foreign state.
    """
    device = torch.device(device)
    some, parts = members[0].settings, split_lm_head(model)
    multi_lora = _MultiLoraTrainer(model, members, device, on_note)
    last_saved = time.monotonic()
    with multi_lora.patched_model() as autocast, retry_on_oom(model, some, device, multi_lora.drop_gradients) as fit:
        while multi_lora.retire_finished():
            if should_stop and should_stop():
                multi_lora.save()
                return False
            begun = time.perf_counter()
            batch = [grad_accumulation.batch(m.blocks, m.settings, len(m.log)) for m in multi_lora.active_members]
            gradient = functools.partial(
                grad_accumulation.accumulate,
                model,
                parts,
                batch,
                multi_lora.draws,
                multi_lora.scaler,
                some,
                device,
                autocast,
                multi_lora.graphs,
            )
            losses, multi_lora.way, found = fit(len(multi_lora.active_members[0].log) + 1, multi_lora.way, gradient)
            multi_lora.out_of_memory += found
            for sentence in found if on_note else ():
                on_note(sentence)
            multi_lora.update(losses, batch, begun)
            multi_lora.run_evals()
            if checkpoint_every_s is not None and time.monotonic() - last_saved >= checkpoint_every_s:
                multi_lora.save()
                last_saved = time.monotonic()
    return True


class _MultiLoraTrainer:
    """The members that sail, their banks, and what is done with them between two steps."""

    def __init__(
        self, model: nn.Module, members: Sequence[Member], device: torch.device, on_note: OnNote | None
    ) -> None:
        self.model, self.members, self.device = model, members, device
        settings = members[0].settings
        self.compute = grad_accumulation.HALVES.get(settings.precision)
        self.draws, self.scaler = SeededDropout(), torch.amp.GradScaler(device.type, enabled=False)
        self.way, self.out_of_memory, self.adapters_disabled = memory_settings(settings), (), False
        starts = [self._start(member) for member in members]
        self.banks = banking.stack_adapters(dict(enumerate(starts)), device)
        self.banks.update_compute_copies(self.compute)
        dropped = any(share for berth in self.banks.berths for share in berth.dropout)
        self.graphs = None if dropped else cuda_graphs.graphs(model, settings, device, self._grads, on_note)

    def _grads(self) -> list[Tensor]:
        return [berth.grads for berth in self.banks.berths]

    def _start(self, member: Member) -> InitialState:
        """The weights and moments with which a member comes aboard: its first ones, or those that were saved."""
        member.settings.check()
        sampler.require_trained_tokens(member.blocks)
        state, _ = checkpoint.read(member.state_folder, member.belongs_to)
        if state is None:
            return InitialState(member.start, None)
        member.log[:] = state.log
        if state.out_of_memory:
            self.way, self.out_of_memory = self.way.most_conservative(state.way), state.out_of_memory
        return start_of(state.tensors, member.start)

    @property
    def active_members(self) -> list[Member]:
        """The members in the order of their rows."""
        return [self.members[number] for number in self.banks.order]

    @contextlib.contextmanager
    def patched_model(self) -> Iterator[bool]:
        """The banks on the model, and its other modules lean; the value: whether products need autocast."""
        with (
            patching.patch_model(
                self.model, self.compute
            ) as autocast,  # tries the modules, which must be the base's own then
            patch_linears(self.model, lambda: None if self.adapters_disabled else self.banks, self.draws),
        ):
            yield autocast

    def drop_gradients(self) -> None:
        """What a broken attempt has added is gone."""
        for berth in self.banks.berths:
            berth.grads.zero_()
        self._drop_graphs()

    def _drop_graphs(self) -> None:
        """Graphs hold memory, and the banks that they were captured with."""
        if self.graphs:
            self.graphs.drop()

    def update(self, losses: Tensor, batch: Sequence[grad_accumulation.Batch], begun: float) -> None:
        """Applies every member's gradients at its own rate; one whose loss or gradient is not finite fails."""
        sailing = self.active_members
        rates = [
            m.settings.lr
            * schedule.lr_multiplier(
                len(m.log), steps=m.settings.steps, warmup_steps=m.settings.warmup_steps, schedule=m.settings.schedule
            )
            for m in sailing
        ]
        norms = adamw.grad_norms(self.banks)
        adamw.update(self.banks, norms, rates, [m.settings for m in sailing], [len(m.log) + 1 for m in sailing])
        self.banks.update_compute_copies(self.compute)
        found = torch.stack([losses, norms.to(losses)]).tolist()  # one wait for the device a step
        seconds = (time.perf_counter() - begun) / len(sailing)
        for member, of, lr, loss_nats, grad_norm in zip(sailing, batch, rates, *found, strict=True):
            step = len(member.log) + 1
            try:
                require_finite(step, loss_nats, grad_norm, lr, False)
            except TrainingError as error:
                member.failed = error
                continue
            tokens = of.tokens + (member.log[-1].tokens if member.log else 0)
            member.log.append(StepRecord(step, tokens, loss_nats, lr, grad_norm, seconds))
            if member.on_step:
                member.on_step(member.log[-1])

    def run_evals(self) -> None:
        """Members at one of their points are told, the model without the fleet."""
        for number, member in enumerate(self.members):
            step = len(member.log)
            if (
                member.on_eval
                and not member.failed
                and number in self.banks.order
                and step in member.settings.eval_at_steps
            ):
                self._drop_graphs()
                with preserve_training_state(self.model, self.device):
                    self.adapters_disabled = True
                    adapter = banking.extract_adapter(self.banks, number, member.start)
                    member.on_eval(member.settings.eval_at_steps.index(step), step, member.log[-1].tokens, adapter)
                    self.adapters_disabled = False

    def retire_finished(self) -> bool:
        """Members that are done leave, the finished ones saved; False where none is left."""
        leaving = [number for number in self.banks.order if self.members[number].done]
        for number in leaving:
            if not self.members[number].failed:
                self._save(number)
        if leaving:
            self._drop_graphs()
            self.banks = banking.drop_members(self.banks, leaving)
        return bool(self.banks.order)

    def save(self) -> None:
        """Every member's state, each as that of a training of its own."""
        for number in self.banks.order:
            self._save(number)

    def _save(self, number: int) -> None:
        member = self.members[number]
        tensors = banking.tensors_of(self.banks, number, member.start, len(member.log)) | checkpoint.random_state(
            self.device
        )
        state = checkpoint.SavedState(
            len(member.log),
            self.way,
            self.out_of_memory,
            member.belongs_to,
            self.scaler.state_dict(),
            tuple(member.log),
            tensors,
        )
        checkpoint.save(member.state_folder, state)
