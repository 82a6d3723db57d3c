"""The kind of a file by its name, and the rows of CSV, TSV and parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from peftodyssey.constants import TEXT_COMPRESSION, TEXT_FORMATS
from peftodyssey.corpora.text_stream import COPY_AGAIN, lines
from peftodyssey.errors import CorpusError

SEPARATORS = {"csv": ",", "tsv": "\t"}  # by format
MAX_CELL_CHARACTERS = 100_000_000  # of CSV; a longer cell is taken for a quote that is not closed


def format_of(path: Path) -> str | None:
    """A value of TEXT_FORMATS by the file's ending, one compression ending aside; None for any other ending."""
    return TEXT_FORMATS.get(bare(path).suffix.lower())


def bare(path: Path) -> Path:
    """The path without the ending of a compression."""
    return path.with_suffix("") if path.suffix.lower() in TEXT_COMPRESSION else path


def csv_rows(stream: IO[bytes], where: str, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place as file:line, row) of each line that is not blank; the first names the columns, and every cell is text.

    The line is the one where the row starts: quoted cells may hold line breaks. A column without a name is left out.
    Raises CorpusError for a header that names no columns apart, a row of another length, and unbalanced quotes.
    """
    records = _csv_records(stream, where, separator)
    place, header = next(records, (where, []))
    _check_header(place, header)
    for place, cells in records:
        if len(cells) != len(header):
            raise CorpusError(
                f"{place}: {len(cells)} cells, but the header names {len(header)} columns",
                f"put every cell that holds {_in_words(separator)} or a line break between double quotes",
            )
        yield place, {name: cell for name, cell in zip(header, cells, strict=True) if name}


def _csv_records(stream: IO[bytes], where: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each line that is not blank."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)  # of the whole process: the module has no other
    reader = csv.reader(lines(stream, where), delimiter=separator, strict=True)
    while True:
        place = f"{where}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise CorpusError(
                f"{place}: the row that starts here cannot be read: {str(error).partition(' - ')[0]}",
                'close every quote, write a double quote inside a quoted cell twice (""), end lines with LF or CRLF',
            ) from error
        if cells is None:
            return
        if len(cells) > 1 or "".join(cells).strip():
            yield place, cells


def _check_header(place: str, header: list[str]) -> None:
    """Two columns of one name would hide each other; one name with a separator in it is a line that was not divided."""
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise CorpusError(f"{place}: two columns are called {repeated[0]!r}", "give each column a name of its own")
    if len(header) == 1 and any(separator in header[0] for separator in ",;|\t"):
        raise CorpusError(
            f"{place}: the header is one column, {header[0][:80]!r}",
            "name the columns in the first line, with commas between them in a .csv and tabs in a .tsv",
        )


def _in_words(separator: str) -> str:
    return "a tab" if separator == "\t" else "a comma"


def parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place as file:row, row) of a parquet file, a batch in memory at a time; `columns` None reads all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path} is not a complete parquet file: {error}", COPY_AGAIN) from error
