"""The state of every cell of a run, read from its directory alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftodyssey.jobs import progress_file
from peftodyssey.store import manifest, plans


@dataclass(frozen=True)
class CellStatus:
    """One cell: done, damaged, failed, stopped (early), started or pending, and a remark (reason, or how far it is)."""

    folder: str
    recipe: str
    label: str
    state: str
    remark: str


def status(folder: Path) -> list[CellStatus]:
    """Every cell of every recipe of the directory; StoreError where it is no output directory."""
    return [_one(folder, entry) for entry in plans.cells(folder)]


def _one(folder: Path, entry: dict) -> CellStatus:
    where = folder / entry["folder"]
    state, remark = "pending", ""
    if (written := manifest.read(where)) is not None:
        state = "done"
        facts = written.get("facts", {})
        remark = f"{facts['seconds']:.0f} s of training" if facts.get("steps") else "scored"
    elif wrong := manifest.damage(where):
        state, remark = "damaged", f"{manifest.in_words(wrong)}; the next run makes it again"
    elif (failure := manifest.failure(where)) is not None:
        state, remark = "failed", failure["reason"]
    elif (stop := manifest.stop(where)) is not None:
        state, remark = "stopped", stop["reason"]
    elif (progress := progress_file.read(where)) is not None:
        state = "started"
        remark = f"step {progress['step']} of {progress['steps']}, last checkpoint at step {progress['saved_step']}"
    return CellStatus(entry["folder"], entry["recipe"], entry["coordinates"]["label"], state, remark)
