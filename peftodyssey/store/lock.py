"""One writer per output directory: two runs at once would undo each other."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the directory while the block runs; StoreError where another process has locked it.

    The operating system frees the lock when the process ends, however it ends.
    """
    with atomic.io_errors_as_store_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / layout.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _take(handle):
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else "?"
            raise StoreError(f"{folder} is in use by process {owner}", "wait for it, or choose another --out")
        with atomic.io_errors_as_store_error(folder):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
