"""Keeps a report current while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from peftodyssey.store import layout, manifest, plans

INTERVAL_S = 20
WATCHED = (layout.CELLS, layout.SCORES, layout.CORPORA)


def watch(
    folders: Sequence[Path], build: Callable[[int | None], Path], wait: Callable[[float], None] = time.sleep
) -> Path:
    """Call `build` when results are added, until every cell is done or failed; returns the page's path.

    `build` is given the seconds after which the page shall load itself again; None the last time.
    """
    shown: object = None
    while not _is_over(folders):
        if (there := _results(folders)) != shown:
            build(INTERVAL_S)
            shown = there
        wait(INTERVAL_S)
    return build(None)


def _results(folders: Sequence[Path]) -> tuple[int, int]:
    """The number of finished or failed folders, and when the newest was written."""
    names = (layout.MANIFEST, layout.FAILURE)
    found = [
        path for folder in folders for kind in WATCHED for name in names for path in (folder / kind).glob(f"*/{name}")
    ]
    return len(found), max((path.stat().st_mtime_ns for path in found), default=0)


def _is_over(folders: Sequence[Path]) -> bool:
    states = {manifest.status_record(f / cell["folder"])["status"] for f in folders for cell in plans.cells(f)}
    return "pending" not in states
