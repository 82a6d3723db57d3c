"""Text on disk: a file, a folder or a pattern, and which files are which split."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftodyssey.constants import TEXT_FORMATS
from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.readers import (
    SEPARATORS,
    bare,
    csv_rows,
    format_of,
    json_rows,
    lines,
    open_bytes,
    parquet_rows,
)
from peftodyssey.corpora.row_schema import RowSchema, infer_schema
from peftodyssey.corpora.splits import did_you_mean, named_splits, refuse_shares, split_of_name
from peftodyssey.errors import CorpusError

CHECKED_CHARACTERS = 64_000_000  # of each text file, decoded when the recipe is checked; the rest when it is used
ENDINGS = f"{', '.join(TEXT_FORMATS)}, plain or .gz or .zst"
Files = dict[str, list[Path]]  # by split


def find_splits(source: str, split: dict[str, Any]) -> Files:
    """The files of each split. Raises CorpusError where there are none, or the recipe's `split` does not match them.

    A single file is train, and the other splits are cut from it. In a folder (searched recursively) or a pattern,
    files or folders named train, valid (validation, val, dev) or test, or as the recipe's `split` says, are these
    splits; every other file is train. One kind of file is read: `_of_one_kind`.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise CorpusError(f"{path} is not a kind of file that is read", f"use {ENDINGS}")
        return {"train": [path]}
    paths, root = _find_files(path)
    named = named_splits(split)
    files: Files = {}
    for file in paths:
        files.setdefault(_split_of_file(file.relative_to(root), named), []).append(file)
    for key, name in named.items():
        if key not in files:
            raise CorpusError(f"{source} has no file or folder named {name!r}", f"correct split.{key}")
    if set(files) - {"train"}:
        refuse_shares(split, files, source)
    return files


def inspect(files: Files, field: str | None) -> RowSchema:
    """The schema of the first rows; text is decoded to find bytes that are not UTF-8. Raises CorpusError."""
    paths = [path for of_split in files.values() for path in of_split]
    for path in paths:
        if path.stat().st_size == 0:
            raise _empty(path, "")
    schemas = [_schema(path, field) for path in paths]
    for path in paths:
        _decode(path)
    return schemas[0]


def content_hashes(files: Files) -> dict[str, list[str]]:
    """sha256 of the files of each split, in the order in which they are read."""
    return {split: [fingerprint.of_file(path) for path in paths] for split, paths in files.items()}


def rows(path: Path, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) pairs of a jsonl, csv, tsv or parquet file; of parquet only `columns` are read."""
    kind = format_of(path)
    if kind == "parquet":
        return parquet_rows(path, columns)
    if kind in SEPARATORS:
        return csv_rows(open_bytes(path), str(path), SEPARATORS[kind])
    return json_rows(open_bytes(path), str(path))


def first_row(file: Path) -> dict[str, Any] | None:
    """The first row of a file of rows; None for plain text."""
    return None if format_of(file) == "txt" else next(iter(rows(file)))[1]


def _find_files(path: Path) -> tuple[list[Path], Path]:
    """Readable files under a folder or matching a pattern, and the folder to which their names are relative."""
    if path.is_dir():
        entries = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        root = path
    elif glob.has_magic(str(path)):
        entries = [Path(p) for p in glob.glob(str(path), recursive=True)]
        root = next(p for p in (path, *path.parents) if not glob.has_magic(str(p)))
    else:
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise CorpusError(
            f"there is no {path}", f"{near}give a file, a folder, a pattern, bundled/..., m2d2/... or hub:..."
        )
    files = sorted(p for p in entries if p.is_file() and format_of(p))
    if not files:
        raise CorpusError(f"{path} holds no text files", f"put {ENDINGS} there")
    return _of_one_kind(files), root


def _of_one_kind(files: list[Path]) -> list[Path]:
    """The jsonl and parquet files, else the plain text, else the CSV and TSV files.

    A CSV beside plain text often describes it (metadata.csv), and a readme beside CSV describes that.
    """
    tables = [path for path in files if format_of(path) in SEPARATORS]
    plain = [path for path in files if format_of(path) == "txt"]
    if tables:
        plain = [path for path in plain if bare(path).stem.lower() != "readme"]
    return [path for path in files if format_of(path) in ("json", "parquet")] or plain or tables


def _split_of_file(relative: Path, named: dict[str, str]) -> str:
    """The split of one file by its name, or by a folder it is in."""
    names = [bare(relative).stem, *relative.parts[:-1][::-1]]
    by_recipe = (split for split, name in named.items() if name in names)
    by_alias = (split for name in names if (split := split_of_name(name)))
    return next(by_recipe, None) or next(by_alias, "train")


def _schema(path: Path, field: str | None) -> RowSchema:
    if format_of(path) == "txt":
        if field is not None:
            raise CorpusError(f"{path} is plain text and has no field {field!r}", "remove `field:`")
        return RowSchema(())
    place, row = next(rows(path), (str(path), None))
    if row is None:
        raise _empty(path, ": it has no rows")
    return infer_schema(row, field, place)


def _decode(path: Path) -> None:
    if format_of(path) == "parquet":
        return
    characters, blank = 0, True
    for line in lines(open_bytes(path), str(path)):
        blank = blank and not line.strip()
        characters += len(line)
        if characters > CHECKED_CHARACTERS:
            return
    if blank:
        raise _empty(path, ": it holds white space only")


def _empty(path: Path, why: str) -> CorpusError:
    return CorpusError(f"{path} is empty{why}", "put text into it, or remove it")
