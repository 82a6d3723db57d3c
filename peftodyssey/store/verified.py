"""Whether files are still what a manifest says: by sha256 once, then by size and times of what was verified.

A small index beside the manifest keeps size, time of modification and time of change of each file whose sha256 was
right. A file of which any of these differs is hashed again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from peftodyssey.store import atomic

INDEX = ".verified.json"
Stamp = list[int | str]  # sha256, bytes, time of modification and of change in ns

_in_memory: dict[Path, dict[str, Stamp]] = {}


def wrong_files(folder: Path, files: Mapping[str, str], *, afresh: bool = False) -> dict[str, str]:
    """What is wrong with the files of `folder` (name -> sha256): name -> what; empty where all are as they were.

    With `afresh` every file is hashed, whatever the index says.
    """
    known = {} if afresh else _known(folder)
    stamps: dict[str, Stamp] = {}
    wrong: dict[str, str] = {}
    for name, digest in files.items():
        path = folder / name
        try:
            if not path.is_file():
                wrong[name] = "is missing"
                continue
            stamp = _stamp(path, digest)
            if known.get(name) != stamp and atomic.sha256(path) != digest:
                wrong[name] = f"is not what was written: its {stamp[1]:,} bytes have another sha256"
                continue
        except (OSError, ValueError) as error:  # ValueError: a null byte in a name
            wrong[name] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        stamps[name] = stamp
    if any(known.get(name) != stamp for name, stamp in stamps.items()):
        _remember(folder, stamps)
    return wrong


def remember(folder: Path, files: Mapping[str, str]) -> None:
    """Note that the files of `folder` (name -> sha256) were just hashed."""
    _remember(folder, {name: _stamp(folder / name, digest) for name, digest in files.items()})


def forget(folder: Path) -> None:
    """Hash every file of `folder` again before it is used."""
    _in_memory.pop(folder, None)
    with contextlib.suppress(OSError):
        (folder / INDEX).unlink(missing_ok=True)


def _stamp(path: Path, digest: str) -> Stamp:
    stat = path.stat()
    return [digest, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _known(folder: Path) -> dict[str, Stamp]:
    if folder not in _in_memory:
        with contextlib.suppress(OSError, ValueError):  # absent, or half-written: everything is hashed again
            content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if isinstance(content, dict):
                _in_memory[folder] = content
    return _in_memory.get(folder, {})


def _remember(folder: Path, stamps: dict[str, Stamp]) -> None:
    _in_memory[folder] = stamps
    with contextlib.suppress(OSError):  # a store that may not be written to is hashed by each process
        (folder / INDEX).write_text(json.dumps(stamps), encoding="utf-8")
