"""The folder of an export: complete under its name, or not there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from peftodyssey.errors import InputError
from peftodyssey.store import atomic

UNFINISHED = re.compile(r"^\.(?P<name>.+)\.(?P<process>\d+)\.export$")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` to write to; it gets that name on a clean exit, and goes otherwise.

    What killed exports left beside `target` is deleted first. Raises InputError where `target` has files.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty", "choose another folder with --to")
    made = [folder for folder in target.parents if not folder.exists()]
    temporary = target.with_name(f".{target.name}.{os.getpid()}.export")
    try:
        with atomic.io_errors_as_store_error(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target)
            temporary.mkdir()
        yield temporary
        with atomic.io_errors_as_store_error(target):
            _sync(temporary)
            if target.is_dir():
                target.rmdir()  # Windows does not rename over an empty folder
            os.rename(temporary, target)
            atomic.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _sweep(target: Path) -> None:
    """Deletes unfinished folders beside `target` whose process has ended."""
    for path in target.parent.iterdir():
        match = UNFINISHED.match(path.name)
        if match is None or not path.is_dir() or path.is_symlink():
            continue
        process = int(match["process"])
        own = process == os.getpid()  # a number that was given out again
        if match["name"] == target.name if own else not atomic.is_running(process):
            shutil.rmtree(path)


def _sync(folder: Path) -> None:
    """Makes every file below `folder` durable, and its folders."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            atomic.sync_folder(path)
    atomic.sync_folder(folder)
