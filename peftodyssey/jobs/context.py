"""What every job is given besides its task: the run's folder, options, callbacks and the measures that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from peftodyssey.errors import Interrupted
from peftodyssey.jobs.handle import Handle
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.training.settings import StepRecord

START_AGAIN = "run the same command again to resume"


class JobCallbacks(Protocol):
    """What a job reports while it works; every method returns at once."""

    def step(self, record: StepRecord, steps: int) -> None:
        """A training step of `steps` is done."""

    def scored(self, name: str, done: int, total: int) -> None:
        """`done` of `total` tokens of the column `name` are scored."""

    def evaluated(self, share: float, corpus: str, nll_nats: float) -> None:
        """After `share` of the budget the NLL of held-out text is `nll_nats` per token."""

    def note(self, text: str) -> None:
        """One line that the user should see."""

    def should_stop(self) -> bool:
        """Whether the user wants the work to end cleanly now."""


@dataclass(frozen=True)
class JobOptions:
    """How work is done; no option changes a result."""

    device: str  # cpu | cuda
    checkpoint_every_s: float
    keep: str  # adapters | best | all
    memory_bytes: int | None  # caps a GPU, or what is resident on a CPU: --memory or what is free; None: no limit
    self_check: bool = True  # every training checks itself
    checkpoint_disk_bytes: int | None = None  # disk that downloaded models share; None: no limit

    @property
    def resident_bytes(self) -> int | None:
        """Host memory that the process may take, None where nothing limits it."""
        return self.memory_bytes if self.device == "cpu" else None


class RunMeasure(Protocol):
    """A measure as jobs see it."""

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        """Does one task and commits its folder. Raises OdysseyError where it cannot be done."""


@dataclass(frozen=True)
class JobContext:
    """The folder that tasks' paths are relative to, the options, the callbacks, and the measures by name."""

    root: Path
    options: JobOptions
    callbacks: JobCallbacks
    measures: Mapping[str, RunMeasure] = field(default_factory=dict)

    def stop_if_asked(self, doing: str) -> None:
        """Raises Interrupted where the user wants to stop; `doing` says during what."""
        if self.callbacks.should_stop():
            raise Interrupted(f"stopped while {doing}", START_AGAIN)

    def scoring_progress(self, name: str, doing: str) -> Callable[[int, int], None]:
        """A function of (done, total) that reports the column `name` and stops where the user wants to."""

        def on_progress(done: int, total: int) -> None:
            self.callbacks.scored(name, done, total)
            self.stop_if_asked(doing)

        return on_progress
