"""The training loop: every method, one device, to be read from top to bottom. `jobs.adapt` calls `train`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from peftodyssey.errors import TrainingError
from peftodyssey.models import patching
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.training import (
    checkpoint,
    cuda_graphs,
    early_stop,
    grad_accumulation,
    l2_sp,
    norm_ball,
    optim,
    sampler,
    schedule,
)
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.memory_settings import memory_settings
from peftodyssey.training.retry_on_oom import retry_on_oom
from peftodyssey.training.settings import (
    OnEval,
    OnNote,
    OnStep,
    ShouldStop,
    StepRecord,
    TrainResult,
    TrainSettings,
)
from peftodyssey.training.travelled import track_updates

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

SEED_OFFSET = 1_000_003  # dropout draws other numbers than the adapters' start did
KEEP_END_AFTER_S = 30.0  # of unsaved training: its end is saved as well
SMALLEST_LOSS_SCALE = 1.0  # fp16: below this the gradients overflow on their own, not by the scale


def train(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    blocks: PackedSequences,
    settings: TrainSettings,
    *,
    device: str | torch.device,
    state_folder: Path | None = None,
    checkpoint_every_s: float | None = None,
    on_step: OnStep | None = None,
    on_eval: OnEval | None = None,
    should_stop: ShouldStop | None = None,
    on_note: OnNote | None = None,
    general_nll: early_stop.GeneralNll | None = None,
) -> TrainResult:
    """Trains the parameters in `trainable` on `blocks`, in place, from where `state_folder` stands or from step 0.

    `on_point(index, step, tokens)` is called after the steps in `settings.eval_at_steps`; it may score the model in any
    mode, and has to write its result before it returns: a resumed training does not call it for that point again.
    `should_stop()` is asked before every step: where it says True the state is saved and the result is `interrupted`.
    `on_note` is told where a step did not fit the memory and in which leaner way the training goes on. `general_nll`
    scores what `settings.early_stop` watches, in any mode. Raises TrainingError: settings, nothing to train on, loss
    not finite, no memory for one block, a foreign state.
    """
    device = torch.device(device)
    settings.check()
    sampler.require_trained_tokens(blocks)
    _require_same_parameters(model, trainable)
    owner = resume_digest(trainable, blocks, settings)
    state, note = checkpoint.read(state_folder, owner)

    torch.manual_seed(settings.seed + SEED_OFFSET)
    optimizer = optim.build_optimizer(trainable, settings)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    way, out_of_memory = memory_settings(settings), []
    moved = track_updates(model, trainable) if settings.l2_sp or settings.norm_ball is not None else []
    watch = early_stop.watch(settings.early_stop, settings.steps, general_nll)
    log: list[StepRecord] = []
    if state:
        _restore(state, trainable, optimizer, scaler, device)
        log, out_of_memory = list(state.log), list(state.out_of_memory)
        way = way.most_conservative(state.way) if out_of_memory else way
        if watch:
            watch.restore(state.tensors)
    resumed_from, last_saved, interrupted = len(log), time.monotonic(), False

    def save(folder: Path) -> None:
        tensors = {
            **{f"parameter/{name}": parameter for name, parameter in trainable.items()},
            **optim.state_tensors(optimizer, trainable),
            **checkpoint.random_state(device),
            **(watch.state_tensors() if watch else {}),
        }
        scale = scaler.state_dict()
        checkpoint.save(
            folder,
            checkpoint.SavedState(len(log), way, tuple(out_of_memory), owner, scale, tuple(log), tensors),
        )

    parts, draws = split_lm_head(model), SeededDropout()
    graphs = cuda_graphs.graphs(
        model, settings, device, lambda: [p.grad for p in trainable.values() if p.grad is not None], on_note
    )

    def release_grads() -> None:
        optimizer.zero_grad(set_to_none=True)
        if graphs:
            graphs.drop()

    def maybe_early_stop_eval(step: int) -> None:
        if watch and watch.due(step):
            release_grads()
            with preserve_training_state(model, device):
                watch.evaluate(step, trainable)

    with (
        patching.patch_model(model, grad_accumulation.HALVES.get(settings.precision), draws.dropped) as autocast,
        optim.offload_hooks(optimizer),
        retry_on_oom(model, settings, device, release_grads) as fit,
    ):
        maybe_early_stop_eval(resumed_from)
        for step in range(resumed_from, settings.last_step):
            if watch and watch.stopped:
                break
            if interrupted := bool(should_stop and should_stop()):
                break
            begun = time.perf_counter()
            lr = settings.lr * schedule.lr_multiplier(
                step, steps=settings.steps, warmup_steps=settings.warmup_steps, schedule=settings.schedule
            )
            batch = grad_accumulation.batch(blocks, settings, step)

            gradient = functools.partial(
                grad_accumulation.accumulate, model, parts, [batch], draws, scaler, settings, device, autocast, graphs
            )
            (loss,), way, shortages = fit(step + 1, way, gradient)  # a leaner way from here on where memory ran out
            out_of_memory += shortages
            for shortage in shortages if on_note else ():
                on_note(shortage)
            scaler.unscale_(optimizer)
            norm = optim.clip(optimizer, settings.grad_clip)
            loss_nats, grad_norm = torch.stack([loss, norm.to(loss)]).tolist()  # one wait for the device a step
            require_finite(
                step + 1,
                loss_nats,
                grad_norm,
                lr,
                scaler.is_enabled() and scaler.get_scale() >= SMALLEST_LOSS_SCALE,
            )

            optim.set_lr(optimizer, lr)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=not (graphs and graphs.holds_graphs))
            l2_sp.apply_l2_sp(moved, lr, settings.l2_sp)
            if settings.norm_ball is not None:
                norm_ball.project_to_norm_ball(moved, settings.norm_ball)

            seconds = time.perf_counter() - begun
            tokens = batch.tokens + (log[-1].tokens if log else 0)
            log.append(StepRecord(step + 1, tokens, loss_nats, lr, grad_norm, seconds))
            if on_step:
                on_step(log[-1])
            if on_eval and step + 1 in settings.eval_at_steps:
                release_grads()
                with preserve_training_state(model, device):
                    on_eval(settings.eval_at_steps.index(step + 1), step + 1, tokens)
            maybe_early_stop_eval(step + 1)
            due = checkpoint_every_s is not None and time.monotonic() - last_saved >= checkpoint_every_s
            if due and state_folder:
                save(state_folder)
                last_saved = time.monotonic()
        unsaved_s = time.monotonic() - last_saved if checkpoint_every_s is not None else 0.0
        paused = interrupted or settings.stop_at_step is not None
        if state_folder and len(log) > resumed_from and (paused or unsaved_s >= KEEP_END_AFTER_S):
            save(state_folder)  # at the end too: what comes next (scoring) may be broken off
    if watch and not interrupted:
        watch.restore_best(trainable)
    kept = log[: watch.kept_step] if watch and not interrupted else log
    return TrainResult(
        steps=len(kept),
        tokens=kept[-1].tokens if kept else 0,
        log=tuple(log),
        final_loss=kept[-1].loss_nats if kept else math.nan,
        seconds=math.fsum(record.seconds for record in log),
        interrupted=interrupted,
        resumed_from=resumed_from,
        micro_batch_size_used=way.micro_batch_size,
        gradient_checkpointing_used=way.gradient_checkpointing,
        activations_offloaded=way.offload_activations,
        out_of_memory=tuple(out_of_memory),
        resume_note=note,
        stopped_at_step=len(log) if len(kept) < len(log) else None,
        general_rises_nats=tuple(watch.rises()) if watch else (),
    )


@contextlib.contextmanager
def preserve_training_state(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Scoring in between leaves no trace: modes and random states are afterwards what they were."""
    states = checkpoint.random_state(device)
    try:
        yield
    finally:
        checkpoint.set_random_state(states, device)
        model.train()


def _restore(
    state: checkpoint.SavedState,
    trainable: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> None:
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(state.tensors[f"parameter/{name}"])
    optim.load_state_tensors(optimizer, trainable, state.tensors)
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    checkpoint.set_random_state(state.tensors, device)


def resume_digest(trainable: Mapping[str, nn.Parameter], blocks: PackedSequences, settings: TrainSettings) -> str:
    weights = [(name, tuple(p.shape), str(p.dtype)) for name, p in trainable.items()]
    return hashlib.sha256(repr((settings.digest(), sampler.digest(blocks), weights)).encode()).hexdigest()


def _require_same_parameters(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> None:
    asked = {id(parameter) for parameter in trainable.values()}
    open_ids = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert asked == open_ids, "what requires gradients must be what is trained"
    assert asked, "a method that trains nothing is not to be trained"


def require_finite(step: int, loss_nats: float, grad_norm: float, lr: float, overflow_expected: bool) -> None:
    """Raises TrainingError before a broken update is applied; fp16 may overflow while its loss scale is
    still falling.
    """
    if math.isfinite(loss_nats) and (math.isfinite(grad_norm) or overflow_expected):
        return
    what, value = ("gradient norm", grad_norm) if math.isfinite(loss_nats) else ("loss", loss_nats)
    raise TrainingError(
        f"the {what} is {value} at step {step} (learning rate {lr:.3g})",
        "try a smaller lr or a longer warmup; with precision fp16, try bf16 or fp32",
    )
