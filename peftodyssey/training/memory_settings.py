"""How a training step is done, none of which changes its result, and the order in which ways become leaner. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftodyssey.training.settings import RECOMPUTE, TrainSettings

NEXT_CHECKPOINTING = {"none": "selective", "selective": "full"}  # the next policy where one block does not fit


@dataclass(frozen=True)
class MemorySettings:
    """Blocks of one forward and backward pass, and what these keep for each other."""

    micro_blocks: int
    recompute: str  # none | selective | full
    offload_activations: bool = False

    def next_fallback(self, on_card: bool) -> MemorySettings | None:
        """The next way where this one took too much: half the blocks, then less kept, then the rest of it on the host.

        None where there is no leaner one.
        """
        if self.micro_blocks > 1:
            return replace(self, micro_blocks=(self.micro_blocks + 1) // 2)
        if self.recompute in NEXT_CHECKPOINTING:
            return replace(self, recompute=NEXT_CHECKPOINTING[self.recompute])
        return replace(self, offload_activations=True) if on_card and not self.offload_activations else None

    def most_conservative(self, other: MemorySettings) -> MemorySettings:
        """In everything the leaner of two ways."""
        return MemorySettings(
            min(self.micro_blocks, other.micro_blocks),
            max(self.recompute, other.recompute, key=RECOMPUTE.index),
            self.offload_activations or other.offload_activations,
        )

    def describe_fallback(self, fat: MemorySettings, batch_blocks: int) -> tuple[str, str]:
        """What did not fit, and what is done in its place, in words: `fat` is the way that this one replaces."""
        if self.micro_blocks < fat.micro_blocks:
            blocks = f"one micro-batch of {fat.micro_blocks} blocks"
            return blocks, f"{-(-batch_blocks // self.micro_blocks)} x {self.micro_blocks}"
        kept = "the layers' inputs in host memory" if self.offload_activations else f"recompute {self.recompute}"
        return f"one block with recompute {fat.recompute}", kept


def memory_settings(settings: TrainSettings) -> MemorySettings:
    """The way that the settings ask for."""
    return MemorySettings(min(settings.micro_blocks, settings.batch_blocks), settings.recompute, settings.offload_activations)
