"""A whole directory of results or of a ladder: what lies there, what of it is damaged, and what nobody needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout, manifest, plans, sealed, table_record

TABLES, TABLES_OLD = "tables", "tables are older than what they were made of"
LEFT_OVER = re.compile(r"\.(.+)\.(\d+)\.(tmp|export)")  # name and process, as atomic writes and exports name them


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written: its place below the directory, and what is wrong."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class Part:
    """The finished folders of one kind (cells, scores, ...): how many, their files and bytes, damaged folders."""

    kind: str
    folders: int = 0
    files: int = 0
    size_bytes: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class Survey:
    """What `survey` found."""

    parts: tuple[Part, ...]
    damage: tuple[Damage, ...]
    left_over: tuple[Path, ...]  # temporary files and folders of processes that have ended


def survey(root: Path) -> Survey:
    """Hash every file that a manifest or a record of `root` names; StoreError where it holds no results."""
    folders = list(_finished(root))
    if not folders and not layout.is_store(root):
        raise StoreError(f"{root} holds no results", "give the directory that `peftodyssey run` wrote, see its --out")
    parts: dict[str, Part] = {}
    found = list(_plans(root))
    for folder in folders:
        wrong = manifest.damage(folder, afresh=True)
        found += [_named(root, folder / name, what) for name, what in wrong.items()]
        kind = folder.parent.name if folder.parent != root else "rungs"
        parts[kind] = _counted(parts.get(kind, Part(kind)), folder, bool(wrong))
    found += _tables(root, afresh=True)
    return Survey(tuple(parts.values()), tuple(found), tuple(left_over(root)))


def known_damage(root: Path) -> list[Damage]:
    """What is damaged in the plans and finished folders of `root`, by size and times of what was verified."""
    found = list(_plans(root))
    for folder in _finished(root):
        found += [_named(root, folder / name, what) for name, what in manifest.damage(folder).items()]
    return found


def left_over(root: Path) -> Iterator[Path]:
    """Temporary files and unfinished exports below `root` whose process has ended."""
    for path in sorted(root.rglob(".*")):
        match = LEFT_OVER.fullmatch(path.name)
        if match is None or path.is_symlink():
            continue
        process = int(match[2])
        if process == os.getpid() or not atomic.is_running(process):  # this process has a number that was free again
            yield path


def sweep(root: Path) -> list[Path]:
    """Delete what `left_over` names; returns it."""
    swept = list(left_over(root))
    for path in swept:
        with atomic.io_errors_as_store_error(path):
            manifest.remove(path)
    return swept


def _finished(root: Path) -> Iterator[Path]:
    """The folders of `root` with a manifest: rungs of a ladder, and those of cells, columns, texts and measures."""
    for kind in (path for path in _folders(root) if path.name not in table_record.UNREAD):
        if (kind / layout.MANIFEST).is_file():
            yield kind
        yield from (folder for folder in _folders(kind) if (folder / layout.MANIFEST).is_file())


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror or error}", "check the path") from error


def _counted(part: Part, folder: Path, damaged: bool) -> Part:
    written = manifest.read(folder)
    sizes = [os.path.getsize(folder / name) for name in written["files"]] if written else []
    return replace(
        part,
        folders=part.folders + 1,
        files=part.files + len(sizes),
        size_bytes=part.size_bytes + sum(sizes),
        damaged=part.damaged + damaged,
    )


def _plans(root: Path) -> Iterator[Damage]:
    """Damaged plans; and finished cells that no plan names, because a plan was lost."""
    broken = {path: what for path in plans.paths(root) if (what := plans.damage(path))}
    yield from (_named(root, path, what) for path, what in broken.items())
    if broken or not (root / layout.CELLS).is_dir():
        return
    named = {cell["folder"] for path in plans.paths(root) for cell in (sealed.read(path) or {"cells": []})["cells"]}
    lost = [
        folder.name
        for folder in _folders(root / layout.CELLS)
        if (folder / layout.MANIFEST).is_file() and f"{layout.CELLS}/{folder.name}" not in named
    ]
    if lost:
        yield Damage(layout.PLANS, f"no plan names {len(lost)} finished cells, such as {lost[0]}: a plan was deleted")


def _tables(root: Path, *, afresh: bool) -> list[Damage]:
    if not (root / layout.RESULTS).is_file():
        return []
    found = [Damage(name, what) for name, what in table_record.damage(root, afresh=afresh).items()]
    try:
        return found if found or table_record.is_current(root, root) else [Damage(TABLES, TABLES_OLD)]
    except StoreError:  # of a plan, which is named already
        return found


def _named(root: Path, path: Path, what: str) -> Damage:
    return Damage(path.relative_to(root).as_posix(), what)
