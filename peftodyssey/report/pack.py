"""A run to pass on as one zip file: report, tables, plans and manifests, without weights, indexes and columns."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftodyssey.report.page_data import WORDS_TABLE
from peftodyssey.store import atomic, layout

TABLES_WITH_TEXT = (WORDS_TABLE, "terms.parquet", "token_breakdown.parquet")
FILES = (layout.RECIPE, layout.RESOLVED)
DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same run gives the same bytes


def pack(folders: Sequence[Path], page: Path, out: Path, *, with_text: bool = True, scoring: str | None = None) -> Path:
    """Write the zip file `out` of these runs and of the report that `page` belongs to; returns its path.

    Without `with_text` the tables that hold words or tokens of documents are left out.
    """
    entries = {f"report/{path.relative_to(page.parent).as_posix()}": path for path in _files_of(page.parent)}
    for folder in folders:
        prefix = "" if len(folders) == 1 else f"{folder.resolve().name}/"
        for path in _of_run(folder, with_text, scoring):
            name = path.relative_to(layout.tables_folder(folder, scoring) if path.suffix == ".parquet" else folder)
            entries[prefix + name.as_posix()] = path
    with (
        atomic.io_errors_as_store_error(out.parent),
        atomic.atomic_write(out) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry, path in sorted(entries.items()):
            packed.writestr(zipfile.ZipInfo(entry, DATE), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return out


def _of_run(folder: Path, with_text: bool, scoring: str | None) -> Iterator[Path]:
    yield from (path for name in FILES if (path := folder / name).is_file())
    for path in sorted(layout.tables_folder(folder, scoring).glob("*.parquet")):
        if with_text or path.name not in TABLES_WITH_TEXT:
            yield path
    yield from sorted((folder / layout.PLANS).glob("*.json"))
    for kind in (layout.CELLS, layout.SCORES, layout.CORPORA):
        yield from sorted((folder / kind).glob(f"*/{layout.MANIFEST}"))


def _files_of(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
