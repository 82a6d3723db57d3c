"""What a job says while it works and asks of whoever started it. `run.progress` listens; tests listen too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from peftodyssey.training.settings import StepRecord


class Events(Protocol):
    """Callbacks of a job; every one returns at once."""

    def step(self, record: StepRecord, steps: int) -> None:
        """A training step of `steps` is done."""

    def scored(self, name: str, done: int, total: int) -> None:
        """`done` of `total` tokens of the column `name` are scored."""

    def point(self, share: float, corpus: str, nll_nats: float) -> None:
        """The held-out text stands at `nll_nats` after `share` of the budget."""

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def should_stop(self) -> bool:
        """Whether the user wants the work to end cleanly now."""


@dataclass(frozen=True)
class How:
    """How work is done, none of which changes a result."""

    device: str  # cpu | cuda
    checkpoint_every_s: float
    keep: str  # adapters | best | all
    memory_bytes: int | None  # the stated --memory: caps a card, or what is resident on a CPU; None: not stated
    checkpoint_disk_bytes: int | None = None  # disk that downloaded models share; None: nothing is dropped

    @property
    def resident_bytes(self) -> int | None:
        """Host memory that the process may take, None where nothing limits it."""
        return self.memory_bytes if self.device == "cpu" else None
