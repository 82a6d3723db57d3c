"""What decides the memory of a training step: micro-batch size, gradient checkpointing and offload. No torch.

None of it changes the result of a training. `next_fallback` is the order in which a step is retried after it ran out of
memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GRADIENT_CHECKPOINTING = ("none", "selective", "full")  # each keeps less for the backward pass than the one before


@dataclass(frozen=True)
class MemorySettings:
    """Sequences of one forward and backward pass, and what is kept on the device between them."""

    micro_batch_size: int = 1  # sequences of one forward and backward pass
    gradient_checkpointing: str = "none"  # none | selective (feed-forwards) | full (decoder layers)
    offload_activations: bool = False  # with gradient checkpointing full: the layers' inputs wait in pinned host memory
    offload_optimizer: bool = False  # gradients and optimizer states live in pinned host memory

    @classmethod
    def from_settings(cls, settings: MemorySettings, batch_size: int) -> MemorySettings:
        """The memory settings of a training or a planned step; the micro-batch is at most `batch_size`."""
        return MemorySettings(
            min(settings.micro_batch_size, batch_size),
            settings.gradient_checkpointing,
            settings.offload_activations,
            settings.offload_optimizer,
        )

    def next_fallback(self, on_gpu: bool) -> MemorySettings | None:
        """The settings to try after these ran out of memory; None where nothing is left to try.

        First the micro-batch is halved, then more is recomputed, then activations are offloaded (on a GPU only).
        """
        if self.micro_batch_size > 1:
            return replace(self, micro_batch_size=(self.micro_batch_size + 1) // 2)
        if self.gradient_checkpointing != "full":
            level = GRADIENT_CHECKPOINTING.index(self.gradient_checkpointing) + 1
            return replace(self, gradient_checkpointing=GRADIENT_CHECKPOINTING[level])
        return replace(self, offload_activations=True) if on_gpu and not self.offload_activations else None

    def most_conservative(self, other: MemorySettings) -> MemorySettings:
        """The smaller micro-batch and the more thorough recomputation and offload of activations of the two."""
        return replace(
            self,
            micro_batch_size=min(self.micro_batch_size, other.micro_batch_size),
            gradient_checkpointing=max(
                self.gradient_checkpointing, other.gradient_checkpointing, key=GRADIENT_CHECKPOINTING.index
            ),
            offload_activations=self.offload_activations or other.offload_activations,
        )

    def describe_fallback(self, failed: MemorySettings, batch_size: int) -> tuple[str, str]:
        """(what did not fit with the settings `failed`, what these settings do instead), in words."""
        if self.micro_batch_size < failed.micro_batch_size:
            micro_batches = f"{-(-batch_size // self.micro_batch_size)} x {self.micro_batch_size}"
            return f"one micro-batch of {failed.micro_batch_size} sequences", micro_batches
        instead = f"gradient checkpointing {self.gradient_checkpointing}"
        if self.offload_activations:
            instead = "the layers' inputs in host memory"
        return f"one sequence with gradient checkpointing {failed.gradient_checkpointing}", instead
