"""Pretraining of a ladder from its plan to its rungs, with a lock and clean interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from peftodyssey.errors import Interrupted
from peftodyssey.execution import interrupt
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.jobs.context import JobContext, JobOptions
from peftodyssey.jobs.pretrain import pretrain
from peftodyssey.plan.ladder import LadderPlan
from peftodyssey.store import lock
from peftodyssey.training.pretrain import READ_EVERY


@dataclass(frozen=True)
class Trained:
    """What one start did: steps, and tokens a second after the first (compilation); None where there are too few."""

    steps: int
    tokens_per_second: float | None
    interrupted: str = ""


def train(
    plan: LadderPlan, root: Path, console: Console, *, stop_after_s: float | None, checkpoint_every_s: float
) -> Trained:
    """Train what of the ladder is missing below `root`."""
    stop = interrupt.Stop(stop_after_s)
    progress = ProgressReporter(console, stop)
    context = JobContext(root, JobOptions(plan.device.kind, checkpoint_every_s, "all", None), progress)
    with lock.exclusive(root), interrupt.listening(stop, progress.say), progress.showing(1):
        progress.task(plan.recipe.name)
        try:
            done = pretrain(plan, context)
        except Interrupted as stopped:
            return Trained(0, None, str(stopped))
        progress.finished(plan.recipe.name, "done")
    steady = done[READ_EVERY:]
    seconds = sum(record.seconds for record in steady)
    rate = len(steady) * plan.recipe.train.batch_tokens / seconds if steady and seconds else None
    return Trained(len(done), rate)
