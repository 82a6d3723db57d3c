"""How a training step is done, none of which changes its result, and the order in which ways become leaner. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftodyssey.training.settings import GRADIENT_CHECKPOINTING, TrainSettings

NEXT_CHECKPOINTING = {"none": "selective", "selective": "full"}  # the next policy where one block does not fit


@dataclass(frozen=True)
class MemorySettings:
    """Blocks of one forward and backward pass, and what these keep for each other."""

    micro_batch_size: int
    gradient_checkpointing: str  # none | selective | full
    offload_activations: bool = False

    def next_fallback(self, on_card: bool) -> MemorySettings | None:
        """The next way where this one took too much: half the blocks, then less kept, then the rest of it on the host.

        None where there is no leaner one.
        """
        if self.micro_batch_size > 1:
            return replace(self, micro_batch_size=(self.micro_batch_size + 1) // 2)
        if self.gradient_checkpointing in NEXT_CHECKPOINTING:
            return replace(self, gradient_checkpointing=NEXT_CHECKPOINTING[self.gradient_checkpointing])
        return replace(self, offload_activations=True) if on_card and not self.offload_activations else None

    def most_conservative(self, other: MemorySettings) -> MemorySettings:
        """In everything the leaner of two ways."""
        return MemorySettings(
            min(self.micro_batch_size, other.micro_batch_size),
            max(self.gradient_checkpointing, other.gradient_checkpointing, key=GRADIENT_CHECKPOINTING.index),
            self.offload_activations or other.offload_activations,
        )

    def describe_fallback(self, fat: MemorySettings, batch_size: int) -> tuple[str, str]:
        """What did not fit, and what is done in its place, in words: `fat` is the way that this one replaces."""
        if self.micro_batch_size < fat.micro_batch_size:
            blocks = f"one micro-batch of {fat.micro_batch_size} blocks"
            return blocks, f"{-(-batch_size // self.micro_batch_size)} x {self.micro_batch_size}"
        kept = (
            "the layers' inputs in host memory"
            if self.offload_activations
            else f"gradient checkpointing {self.gradient_checkpointing}"
        )
        return f"one block with gradient checkpointing {fat.gradient_checkpointing}", kept


def memory_settings(settings: TrainSettings) -> MemorySettings:
    """The way that the settings ask for."""
    return MemorySettings(
        min(settings.micro_batch_size, settings.batch_size),
        settings.gradient_checkpointing,
        settings.offload_activations,
    )
