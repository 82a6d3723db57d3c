"""A training step within the memory there is: begun again in a leaner way where it took too much. `train.loop` calls
it.

Too much is a CUDA allocator, or the host, that has no more to give; and on a CPU with a stated budget a process that
was larger than that budget at any time of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftodyssey.errors import TrainingError
from peftodyssey.models import host_memory
from peftodyssey.training import checkpoint, gradient_checkpointing
from peftodyssey.training.memory_settings import MemorySettings
from peftodyssey.training.settings import TrainSettings

Gradient = Callable[[int, Callable[[], None]], Tensor]  # (blocks of a micro-batch, check after each) -> loss
Fit = Callable[[int, MemorySettings, Gradient], "StepAttempt"]


class StepAttempt(NamedTuple):
    """A step's loss (nats a token), the way in which it could be done, and each shortage on the way there in words."""

    loss: Tensor
    way: MemorySettings
    out_of_memory: tuple[str, ...]


@contextlib.contextmanager
def retry_on_oom(
    model: nn.Module, settings: TrainSettings, device: torch.device, drop: Callable[[], None]
) -> Iterator[Fit]:
    """A function of (step from 1, way, gradient) that calls `gradient` until it fits; the model trains in the body.

    `drop()` undoes what a broken attempt has added. Each attempt begins with the same random states. The function
    raises TrainingError where the leanest way does not fit.
    """
    budget_bytes = settings.budget_bytes if device.type == "cpu" else None
    with gradient_checkpointing.switchable_policy(model) as keep, host_memory.rss_budget(budget_bytes) as watch:

        def fit(step: int, way: MemorySettings, gradient: Gradient) -> StepAttempt:
            states, found = checkpoint.random_state(device), []
            while True:
                keep(way.gradient_checkpointing, way.offload_activations)
                watch.reset_peak()  # what the last update or a scoring rose to, and left, is not this step's
                try:
                    return StepAttempt(gradient(way.micro_batch_size, watch.check), way, tuple(found))
                except Exception as error:
                    if not host_memory.is_out_of_memory(error):
                        raise
                    rose = f" ({error})" if isinstance(error, host_memory.RssBudgetExceeded) else ""
                # only here are the tensors free that the error's frames held
                drop()
                host_memory.release_memory(device)
                checkpoint.set_random_state(states, device)
                way, sentence = _next_fallback(way, settings, device, budget_bytes, rose)
                found.append(f"step {step}: {sentence}")

        yield fit


def _next_fallback(
    way: MemorySettings, settings: TrainSettings, device: torch.device, budget_bytes: int | None, rose: str
) -> tuple[MemorySettings, str]:
    """The next way and a sentence that says so; TrainingError where there is none."""
    card = device.type == "cuda"
    room = (
        "the GPU's memory"
        if card
        else "the host's memory"
        if budget_bytes is None
        else host_memory.format_gib(budget_bytes)
    )
    leaner = way.next_fallback(card)
    if leaner is None:
        held = "" if card else f"; {host_memory.format_gib(host_memory.resident_bytes())} are resident without it"
        raise TrainingError(
            f"the forward and backward pass of one block does not fit {room} with everything recomputed{rose}{held}",
            "shorten train.seq_len, quantise the base (qlora)"
            + ("" if budget_bytes is None else ", raise --memory")
            + ", or see what `peftodyssey plan` suggests",
        )
    what, then = leaner.describe_fallback(way, settings.batch_size)
    return leaner, f"{what} did not fit {room}{rose}; goes on with {then}"
