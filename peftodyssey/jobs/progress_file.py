"""How far a training was when its process ended, so that the next start can say what is repeated."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.store import layout
from peftodyssey.training.settings import STATE_FILE, StepRecord

if TYPE_CHECKING:
    from peftodyssey.jobs.context import JobCallbacks

FILE = ".progress.json"
EVERY_S = 2.0


class ProgressFile:
    """Writes step and seconds of training every two seconds; a half-written file is ignored."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.path = folder / FILE
        self.steps = steps
        self.seconds = 0.0
        self.last_written = float("-inf")

    def step(self, record: StepRecord) -> None:
        """Counts one step and writes where two seconds have passed."""
        self.seconds += record.seconds
        if time.monotonic() - self.last_written >= EVERY_S:
            progress = {"step": record.step, "steps": self.steps, "seconds": self.seconds, "loss": record.loss_nats}
            self.path.write_text(json.dumps(progress))
            self.last_written = time.monotonic()


def read(folder: Path) -> dict[str, Any] | None:
    """How far a cell is: `step` (of the file or of the checkpoint, whichever is later), `steps`, `seconds`, `loss`.

    `saved_step` is that of the checkpoint, 0 where there is none. None where nothing was begun.
    """
    try:
        progress = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):  # absent, or half-written when the process ended
        return None
    saved_step = _saved_step(folder / layout.CHECKPOINT)
    return {**progress, "step": max(progress["step"], saved_step), "saved_step": saved_step}


def remove(folder: Path) -> None:
    """Deletes the file of a finished cell."""
    (folder / FILE).unlink(missing_ok=True)


def note_repeated_work(folder: Path, callbacks: JobCallbacks) -> None:
    """Notes from which step an interrupted training resumes and what is repeated."""
    progress = read(folder)
    if (
        progress is None or progress["saved_step"] == progress["steps"]
    ):  # nothing was begun, or it was trained to its end
        return
    lost = progress["step"] - progress["saved_step"]
    minutes = progress["seconds"] / 60 * lost / max(1, progress["step"])
    repeated = f"; {lost} steps ({minutes:.1f} minutes) are repeated" if lost else ""
    start = (
        f"step {progress['saved_step']} of {progress['steps']}, the last checkpoint"
        if progress["saved_step"]
        else ("step 0, because no checkpoint was written")
    )
    callbacks.note(f"resumes from {start}{repeated}")


def _saved_step(checkpoint: Path) -> int:
    try:
        return int(json.loads((checkpoint / STATE_FILE).read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0
