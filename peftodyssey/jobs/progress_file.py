"""How far a training was when its process ended, so that the next start can say what was lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from peftodyssey.jobs.callbacks import Events
from peftodyssey.training.settings import StepRecord

FILE = ".progress.json"
EVERY_S = 2.0


class ProgressFile:
    """Writes step and seconds of training every two seconds; a torn file is harmless and ignored."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.path = folder / FILE
        self.steps = steps
        self.seconds = 0.0
        self.last = float("-inf")

    def step(self, record: StepRecord) -> None:
        """Count one step; write when it is time."""
        self.seconds += record.seconds
        if time.monotonic() - self.last >= EVERY_S:
            self.path.write_text(
                json.dumps(
                    {"step": record.step, "steps": self.steps, "seconds": self.seconds, "loss": record.loss_nats}
                )
            )
            self.last = time.monotonic()


def read(folder: Path) -> dict[str, Any] | None:
    """The last beat, None where there is none or it is torn."""
    try:
        return json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None


def remove(folder: Path) -> None:
    """Forget the beat of a finished cell."""
    (folder / FILE).unlink(missing_ok=True)


def note_repeated_work(folder: Path, state_folder: Path, events: Events) -> None:
    """One line about where an interrupted training goes on and how many minutes are done again."""
    beat = read(folder)
    saved = _saved_step(state_folder)
    if beat is None or saved == beat["steps"]:  # a fleet has trained it to its end, or nothing was begun
        return
    lost = max(0, beat["step"] - saved)
    minutes = beat["seconds"] / 60 * lost / max(1, beat["step"])
    events.note(f"goes on from step {saved} (it had reached step {beat['step']}; {minutes:.1f} minutes are done again)")


def _saved_step(state_folder: Path) -> int:
    try:
        return int(json.loads((state_folder / "state.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0
