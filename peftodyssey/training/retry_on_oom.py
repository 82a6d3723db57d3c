"""Retries a training step with smaller memory settings where it runs out of memory.

Out of memory is a CUDA or host allocation that fails, and, on a CPU with a stated budget, a process whose resident size
rose above that budget during the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import host_memory
from peftodyssey.training import checkpoint, gradient_checkpointing
from peftodyssey.training.settings import OnNote, TrainSettings

ComputeGradients = Callable[[int, Callable[[], None]], Tensor]  # (micro-batch size, check after each) -> losses


class StepRunner:
    """Computes the gradients of a step, with smaller memory settings from where it ran out of memory on."""

    def __init__(
        self, settings: TrainSettings, device: torch.device, drop_gradients: Callable[[], None], on_note: OnNote
    ) -> None:
        """`drop_gradients()` undoes what a failed attempt has added; `on_note` is given a sentence about it."""
        self.settings, self.device, self.drop_gradients, self.on_note = settings, device, drop_gradients, on_note
        self.budget_bytes = settings.budget_bytes if device.type == "cpu" else None
        self.memory_settings = MemorySettings.from_settings(settings, settings.batch_size)
        self.out_of_memory: tuple[str, ...] = ()  # a sentence for each failed attempt

    def resume(self, state: checkpoint.SavedState) -> None:
        """Starts with the memory settings of a checkpoint where memory ran out before it."""
        self.out_of_memory = state.out_of_memory
        if self.out_of_memory:
            self.memory_settings = self.memory_settings.most_conservative(state.memory_settings)

    @contextlib.contextmanager
    def training_mode(self, model: nn.Module) -> Iterator[None]:
        """In the body `model` is in training mode, with the gradient checkpointing of the current memory settings."""
        with (
            gradient_checkpointing.switchable_policy(model) as self._set_policy,
            host_memory.rss_budget(self.budget_bytes) as self._resident,
        ):
            yield

    def run(self, step: int, gradients: ComputeGradients) -> Tensor:
        """The losses of step `step`, counted from 1; each attempt begins with the same random states.

        Raises TrainingError where not even the last fallback fits.
        """
        random_state = checkpoint.random_state(self.device)
        while True:
            memory_settings = self.memory_settings
            self._set_policy(memory_settings.gradient_checkpointing, memory_settings.offload_activations)
            self._resident.reset_peak()  # a peak of the last update or of an evaluation is not this step's
            try:
                return gradients(memory_settings.micro_batch_size, self._resident.check)
            except Exception as error:
                if not host_memory.is_out_of_memory(error):
                    raise
                measured = f" ({error})" if isinstance(error, host_memory.RssBudgetExceeded) else ""
            # only after the except block are the tensors free that the error's frames referred to
            self.drop_gradients()
            host_memory.release_memory(self.device)
            checkpoint.set_random_state(random_state, self.device)
            sentence = f"step {step}: {self._fall_back(measured)}"
            self.out_of_memory += (sentence,)
            self.on_note(sentence)

    def _fall_back(self, measured: str) -> str:
        """Takes the memory settings to try next and says so; raises TrainingError where there are none."""
        failed, on_gpu = self.memory_settings, self.device.type == "cuda"
        limit = "the host's memory" if self.budget_bytes is None else host_memory.format_gib(self.budget_bytes)
        limit = "the GPU's memory" if on_gpu else limit
        fallback = failed.next_fallback(on_gpu)
        if fallback is None:
            resident = (
                "" if on_gpu else f"; {host_memory.format_gib(host_memory.resident_bytes())} are in use without it"
            )
            more_memory = "" if self.budget_bytes is None else ", raise --memory"
            raise TrainingError(
                f"the forward and backward pass of one sequence does not fit {limit} with everything recomputed"
                f"{measured}{resident}",
                f"shorten train.seq_len, quantize the base (qlora){more_memory}, "
                "or see what `peftodyssey plan` suggests",
            )
        self.memory_settings = fallback
        what, instead = fallback.describe_fallback(failed, self.settings.batch_size)
        return f"{what} did not fit {limit}{measured}; continues with {instead}"
