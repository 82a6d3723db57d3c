"""The stem that trainings of several budgets share under the schedule `wsd`: their steps before the decay.

The training of a budget saves its state where its decay begins, and that of the next larger budget starts from there.
The learning rate of the stem does not depend on the budget, so each ends with the bits of a training from step 0.
"""

from __future__ import annotations

from dataclasses import replace

from peftodyssey.training import checkpoint
from peftodyssey.training.checkpoint import SavedState, StemCheckpoint
from peftodyssey.training.schedule import wsd_decay_steps
from peftodyssey.training.settings import TrainSettings


def decay_start(settings: TrainSettings) -> int:
    """Steps before the learning rate decays, of schedule `wsd`."""
    assert settings.schedule == "wsd", settings.schedule
    return settings.steps - wsd_decay_steps(settings.steps, settings.warmup_steps)


def read(stem: StemCheckpoint | None, digest: str, settings: TrainSettings) -> SavedState | None:
    """The saved state of the stem, where it is whole, of the same stem, and not beyond the decay of this training.

    `digest` is `loop.stem_digest`. None where there is no such state: the training then starts from step 0.
    """
    if stem is None or checkpoint.saved_digest(stem.folder) != digest:
        return None
    state, _ = checkpoint.read(stem.folder, digest)
    return state if state is not None and state.step <= decay_start(settings) else None


def is_due(stem: StemCheckpoint | None, settings: TrainSettings, step: int) -> bool:
    """Whether a training saves the state of the stem after `step` steps."""
    return stem is not None and stem.continues and step == decay_start(settings)


def save(stem: StemCheckpoint, digest: str, state: SavedState) -> None:
    """Saves the state of a training as that of the stem, unless a later one of the same stem is there."""
    there = checkpoint.read(stem.folder, digest)[0] if checkpoint.saved_digest(stem.folder) == digest else None
    if there is None or there.step < state.step:
        checkpoint.save(stem.folder, replace(state, resume_digest=digest))
