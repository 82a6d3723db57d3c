"""Deletes full-size weights once everything is scored: `--keep best` keeps those of selected cells only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftodyssey.jobs.finish import DROPPED
from peftodyssey.plan.tasks import CellTask
from peftodyssey.store import layout, manifest


def prune(root: Path, cells: Iterable[CellTask], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Delete the full-size weights of cells that validation did not select; returns the folders of these cells."""
    chosen = {row["cell"] for row in rows if row["selected"]}
    dropped = []
    for task in cells:
        folder = root / task.folder
        written = manifest.read(folder)
        if written is None or task.short_hash in chosen or not (folder / layout.WEIGHTS).is_dir():
            continue
        drop_weights(folder)
        dropped.append(task.folder)
    return dropped


def drop_weights(folder: Path) -> None:
    """Deletes the full-size weights of a finished cell; its manifest says so."""
    written = manifest.read(folder)
    assert written is not None, f"{folder} is finished"
    facts = {**written["facts"], "weights": DROPPED}
    manifest.remove(folder / layout.MANIFEST)
    manifest.remove(folder / layout.WEIGHTS)
    manifest.commit(folder, {**written, "facts": facts})
