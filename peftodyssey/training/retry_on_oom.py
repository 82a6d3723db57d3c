"""Retries a training step with smaller memory settings where it runs out of memory.

Out of memory is a CUDA or host allocation that fails, and, on a CPU with a stated budget, a process whose resident size
rose above that budget during the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import host_memory
from peftodyssey.training import checkpoint, gradient_checkpointing
from peftodyssey.training.settings import TrainSettings

ComputeGradients = Callable[[int, Callable[[], None]], Tensor]  # (micro-batch size, check after each) -> losses
StepRunner = Callable[[int, MemorySettings, ComputeGradients], "StepAttempt"]


class StepAttempt(NamedTuple):
    """A step's losses (nats per token), the memory settings that fitted, and a sentence for each failed attempt."""

    losses: Tensor
    memory_settings: MemorySettings
    out_of_memory: tuple[str, ...]


@contextlib.contextmanager
def retry_on_oom(
    model: nn.Module, settings: TrainSettings, device: torch.device, drop_gradients: Callable[[], None]
) -> Iterator[StepRunner]:
    """A function of (step from 1, memory settings, gradients) that calls `gradients` until it fits; the model is in
    training mode in the body.

    `drop_gradients()` undoes what a failed attempt has added. Each attempt begins with the same random states. The
    function raises TrainingError where not even the last fallback fits.
    """
    budget_bytes = settings.budget_bytes if device.type == "cpu" else None
    with (
        gradient_checkpointing.switchable_policy(model) as set_policy,
        host_memory.rss_budget(budget_bytes) as resident,
    ):

        def run_step(step: int, memory_settings: MemorySettings, gradients: ComputeGradients) -> StepAttempt:
            random_state = checkpoint.random_state(device)
            out_of_memory: list[str] = []
            while True:
                set_policy(memory_settings.gradient_checkpointing, memory_settings.offload_activations)
                resident.reset_peak()  # a peak of the last update or of an evaluation is not this step's
                try:
                    losses = gradients(memory_settings.micro_batch_size, resident.check)
                    return StepAttempt(losses, memory_settings, tuple(out_of_memory))
                except Exception as error:
                    if not host_memory.is_out_of_memory(error):
                        raise
                    measured = f" ({error})" if isinstance(error, host_memory.RssBudgetExceeded) else ""
                # only after the except block are the tensors free that the error's frames referred to
                drop_gradients()
                host_memory.release_memory(device)
                checkpoint.set_random_state(random_state, device)
                memory_settings, sentence = _next_fallback(memory_settings, settings, device, budget_bytes, measured)
                out_of_memory.append(f"step {step}: {sentence}")

        yield run_step


def _next_fallback(
    failed: MemorySettings, settings: TrainSettings, device: torch.device, budget_bytes: int | None, measured: str
) -> tuple[MemorySettings, str]:
    """The memory settings to try next and a sentence that says so; TrainingError where there are none."""
    on_gpu = device.type == "cuda"
    limit = "the host's memory" if budget_bytes is None else host_memory.format_gib(budget_bytes)
    limit = "the GPU's memory" if on_gpu else limit
    fallback = failed.next_fallback(on_gpu)
    if fallback is None:
        resident = "" if on_gpu else f"; {host_memory.format_gib(host_memory.resident_bytes())} are resident without it"
        more_memory = "" if budget_bytes is None else ", raise --memory"
        raise TrainingError(
            f"the forward and backward pass of one block does not fit {limit} with everything recomputed"
            f"{measured}{resident}",
            f"shorten train.seq_len, quantize the base (qlora){more_memory}, or see what `peftodyssey plan` suggests",
        )
    what, instead = fallback.describe_fallback(failed, settings.batch_size)
    return fallback, f"{what} did not fit {limit}{measured}; continues with {instead}"
