"""Text on disk: a file, a folder or a pattern; which files are which split. Called by corpora.source."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.readers import FORMATS, bare, format_of, json_rows, lines, open_bytes, parquet_rows
from peftodyssey.corpora.row_schema import (
    RowSchema,
    did_you_mean,
    infer_schema,
    named_splits,
    refuse_shares,
    split_of,
)
from peftodyssey.errors import CorpusError

CHECKED_CHARACTERS = 64_000_000  # of each text file, read through when the recipe is checked; the rest when it is used
Parts = dict[str, list[Path]]


def find_parts(source: str, split: dict[str, Any]) -> Parts:
    """The files of each split.

    A single file is train, and the other splits are cut from it. In a folder (searched through) or a pattern, files
    or folders named train, valid (validation, val, dev) or test, or as the recipe's `split` says, are these splits,
    every other file is train. Where there are rows (jsonl, parquet), plain text beside them is not read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise CorpusError(f"{path} is not a kind of file that is read", f"use {_endings()}, plain or .gz or .zst")
        return {"train": [path]}
    files, root = _files(path)
    named = named_splits(split)
    parts: Parts = {}
    for file in files:
        parts.setdefault(_part(file.relative_to(root), named), []).append(file)
    for part, name in named.items():
        if part not in parts:
            raise CorpusError(f"{source} has no file or folder named {name!r}", f"mend split.{part}")
    if set(parts) - {"train"}:
        refuse_shares(split, parts, source)
    return parts


def inspect(parts: Parts, field: str | None) -> RowSchema:
    """The layout of the files, their first rows read; text files are read through as UTF-8. Raises CorpusError."""
    for path in (path for files in parts.values() for path in files):
        if path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty", "put text into it, or take it out")
    layouts = [_first(path, field) for files in parts.values() for path in files]
    for path in (path for files in parts.values() for path in files):
        _read_through(path)
    return layouts[0]


def content_hashes(parts: Parts) -> dict[str, list[str]]:
    """sha256 of the files of each split, in the order in which they are read."""
    return {part: [fingerprint.of_file(path) for path in files] for part, files in parts.items()}


def rows(path: Path, columns: list[str] | None = None) -> Any:
    """(place, row) pairs of a jsonl or parquet file."""
    if format_of(path) == "parquet":
        return parquet_rows(path, columns)
    return json_rows(open_bytes(path), str(path))


def _files(path: Path) -> tuple[list[Path], Path]:
    """Readable files under a folder or matching a pattern, and the folder that their names are judged from."""
    if path.is_dir():
        found = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        root = path
    elif glob.has_magic(str(path)):
        found = [Path(p) for p in glob.glob(str(path), recursive=True)]
        fixed = [p for p in (path, *path.parents) if not glob.has_magic(str(p))]
        root = fixed[0]
    else:
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise CorpusError(
            f"there is no {path}", f"{near}give a file, a folder, a pattern, bundled/..., m2d2/... or hub:..."
        )
    files = sorted(p for p in found if p.is_file() and format_of(p))
    with_rows = [p for p in files if format_of(p) != "txt"]
    if not files:
        raise CorpusError(f"{path} holds no text files", f"put {_endings()} there, plain or .gz or .zst")
    return with_rows or files, root


def _part(relative: Path, named: dict[str, str]) -> str:
    """The split of one file by its name, or by a folder it is in."""
    names = [bare(relative).stem, *relative.parts[:-1][::-1]]
    for part, name in named.items():
        if name in names:
            return part
    return next((usual for name in names if (usual := split_of(name))), "train")


def _first(path: Path, field: str | None) -> RowSchema:
    if format_of(path) == "txt":
        if field is not None:
            raise CorpusError(f"{path} is plain text and has no field {field!r}", "leave out `field:`")
        return RowSchema(())
    place, row = next(iter(rows(path)), (str(path), None))
    if row is None:
        raise CorpusError(f"{path} is empty: it has no rows", "put text into it, or take it out")
    return infer_schema(row, field, place)


def _read_through(path: Path) -> None:
    """Decode the text, so that bytes that are not UTF-8 are found before anything is trained."""
    if format_of(path) == "parquet":
        return
    seen, blank = 0, True
    for line in lines(open_bytes(path), str(path)):
        blank = blank and not line.strip()
        seen += len(line)
        if seen > CHECKED_CHARACTERS:
            return
    if blank:
        raise CorpusError(f"{path} is empty: it holds white space only", "put text into it, or take it out")


def _endings() -> str:
    return ", ".join(FORMATS)
