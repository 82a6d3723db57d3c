"""The log of a run: one line for each task that began or ended, with its folder and the time, and every note."""

from __future__ import annotations

import datetime
from pathlib import Path


class RunLog:
    """Appends lines to a file; None writes nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, text: str) -> None:
        """One line with the time before it; the lines of a text that has several stay together."""
        if self.path is not None:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{now} {text}\n")
