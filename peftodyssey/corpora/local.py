"""Text on disk: a file, a folder or a pattern, and which files are which split."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftodyssey.constants import TEXT_FORMATS
from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.json_values import json_rows
from peftodyssey.corpora.readers import SEPARATORS, bare, csv_rows, format_of, parquet_rows
from peftodyssey.corpora.row_schema import RowSchema, infer_schema
from peftodyssey.corpora.splits import did_you_mean, named_splits, refuse_shares, split_of_name
from peftodyssey.corpora.text_stream import open_bytes, pieces, why_no_text
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

CHECKED_CHARACTERS = 64_000_000  # of each text file, decoded when the recipe is checked; the rest when it is used
ENDINGS = f"{', '.join(TEXT_FORMATS)}, plain or compressed (gz, zst, bz2, xz)"
Files = dict[str, list[Path]]  # by split


def find_splits(source: str, split: dict[str, Any]) -> Files:
    """The files of each split. Raises CorpusError where there are none, or the recipe's `split` does not match them.

    A single file is train, and the other splits are cut from it. In a folder (searched recursively) or a pattern,
    files or folders named train, valid (validation, val, dev) or test, or as the recipe's `split` says, are these
    splits; every other file is train. One kind of file is read: `_of_one_kind`. A file that is named, or that a pattern
    matches, is text whatever its ending, unless its first bytes are none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        _require_text(path)
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


def inspect(files: Files, spec: CorpusSpec) -> RowSchema:
    """The schema of the first rows; text is decoded to find bytes that are not UTF-8. Raises CorpusError.

    Every file has the columns that the first one is read by.
    """
    paths = [path for of_split in files.values() for path in of_split]
    for path in paths:
        if path.stat().st_size == 0:
            raise _empty(path, "")
    schema = _schema(paths[0], spec)
    for path in paths[1:]:
        if not set(schema.text_columns) <= set(found := _schema(path, spec, schema).fields):
            raise CorpusError(
                f"{path} has the columns {', '.join(found) or 'none'}, and {paths[0]} is read by "
                f"{' + '.join(schema.text_columns)}",
                "give all files the same columns, or name those of one kind by a pattern",
            )
    for path in paths:
        _decode(path)
    return schema


def counts_of_kinds(corpus_files: Files) -> Counter[str]:
    """How many files of each format are read."""
    return Counter(format_of(path) or "txt" for paths in corpus_files.values() for path in paths)


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


def is_plain(path: Path) -> bool:
    """Whether a file is text without rows."""
    return format_of(path) in ("txt", None)


def _require_text(path: Path) -> None:
    if format_of(path) is None and (why := why_no_text(path)):
        raise CorpusError(f"{path} is not a kind of file that is read: {why}", f"use any text file, or {ENDINGS}")


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
    present = sorted(p for p in entries if p.is_file())
    if root != path and present:
        chosen = _of_one_kind(present)
        for file in chosen:
            _require_text(file)
        return chosen, root
    files = [p for p in present if format_of(p)]
    if not files:
        endings = Counter(p.suffix for p in present if p.suffix)
        held = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(3))
        pattern = f"; name others by a pattern: {path}/**/*{endings.most_common(1)[0][0]}" if endings else ""
        raise CorpusError(
            f"{path} holds no text files{f' of these endings, it holds {held}' if held else ''}",
            f"put {ENDINGS} there{pattern}",
        )
    return _of_one_kind(files), root


def _of_one_kind(files: list[Path]) -> list[Path]:
    """The JSON and parquet files, else the plain text, else the CSV and TSV files.

    A CSV beside plain text often describes it (metadata.csv), and a readme beside CSV describes that. Files of other
    endings, which a pattern may match, are plain text where there are no rows.
    """
    tables = [path for path in files if format_of(path) in SEPARATORS]
    plain = [path for path in files if is_plain(path)]
    if tables:
        plain = [path for path in plain if bare(path).stem.lower() != "readme" and format_of(path)]
    return [path for path in files if format_of(path) in ("json", "parquet")] or plain or tables


def _split_of_file(relative: Path, named: dict[str, str]) -> str:
    """The split of one file by its name, or by a folder it is in."""
    names = [bare(relative).stem, *relative.parts[:-1][::-1]]
    by_recipe = (split for split, name in named.items() if name in names)
    by_alias = (split for name in names if (split := split_of_name(name)))
    return next(by_recipe, None) or next(by_alias, "train")


def _schema(path: Path, spec: CorpusSpec, like: RowSchema | None = None) -> RowSchema:
    """The schema of a file's first row; where another file has decided it, its columns alone."""
    if is_plain(path):
        if spec.field is not None or spec.columns:
            what = f"field {spec.field!r}" if spec.field else "columns"
            raise CorpusError(f"{path} is plain text and has no {what}", "remove `field:` and `columns:`")
        return RowSchema((), name="plain text")
    place, row = next(rows(path), (str(path), None))
    if row is None:
        raise _empty(path, ": it has no rows")
    return RowSchema(tuple(row)) if like else infer_schema(row, spec.field, place, spec.columns)


def _decode(path: Path) -> None:
    if format_of(path) == "parquet":
        return
    characters, blank = 0, True
    for piece in pieces(open_bytes(path), str(path)):
        blank = blank and not piece.strip()
        characters += len(piece)
        if characters > CHECKED_CHARACTERS:
            return
    if blank:
        raise _empty(path, ": it holds white space only")


def _empty(path: Path, why: str) -> CorpusError:
    return CorpusError(f"{path} is empty{why}", "put text into it, or remove it")
