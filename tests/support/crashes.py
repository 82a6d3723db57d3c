"""A process that dies at the nth boundary of its writes: everything that it had not synced may be lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftodyssey.jobs import index
from peftodyssey.store import verified

FUNCTIONS = ("fsync", "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "truncate")


class Crash(BaseException):
    """The end of the process: nothing of the program catches it."""


class Disk:
    """Counts the calls that change what lies below `root`, and dies at one of them: from then on every call fails."""

    def __init__(self, root: Path, at: int | None) -> None:
        self.root, self.at, self.count, self.dead = str(root), at, 0, False

    def boundary(self, path: str, *, half: bool = False) -> None:
        """Before a call on `path`; with `half` the file was not synced yet, and its second half is lost."""
        if not path.startswith(self.root):
            return
        if not self.dead:
            self.count += 1
            self.dead = self.count == self.at
            if self.dead and half and os.path.isfile(path):
                with open(path, "rb+") as file:
                    file.truncate(os.path.getsize(path) // 2)
        if self.dead:
            raise Crash(path)


def _path_of(target: Any, directory: int | None) -> str:
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    path = os.fspath(target)
    path = path.decode() if isinstance(path, bytes) else path
    return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path) if directory else os.path.abspath(path)


@contextlib.contextmanager
def crashing(root: Path, at: int | None = None) -> Iterator[Disk]:
    """The block as a process of its own that dies at the boundary `at` (from 1); None: it is counted and lives."""
    disk, originals = Disk(root, at), {name: getattr(os, name) for name in FUNCTIONS}

    def watched(name: str) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **options: Any) -> Any:
            directory = options.get("dir_fd")
            disk.boundary(_path_of(target, directory), half=name == "fsync")
            return originals[name](target, *rest, **options)

        return call

    verified._in_memory.clear()  # of the process before
    index.opened.cache_clear()
    try:
        for name in FUNCTIONS:
            setattr(os, name, watched(name))
        yield disk
    except Crash:
        pass
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        verified._in_memory.clear()
        index.opened.cache_clear()
