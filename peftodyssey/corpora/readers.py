"""Files to lines and rows: plain, .gz and .zst text, JSON lines, CSV, TSV, parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from peftodyssey.constants import TEXT_COMPRESSION, TEXT_FORMATS
from peftodyssey.errors import CorpusError

SEPARATORS = {"csv": ",", "tsv": "\t"}  # by format
MAX_CELL_CHARACTERS = 100_000_000  # of CSV; a longer cell is taken for a quote that is not closed
COPY_AGAIN = "copy the file again, or write it again"


def format_of(path: Path) -> str | None:
    """A value of TEXT_FORMATS by the file's ending, one compression ending aside; None for anything else."""
    return TEXT_FORMATS.get(bare(path).suffix.lower())


def bare(path: Path) -> Path:
    """The path without .gz or .zst."""
    return path.with_suffix("") if path.suffix.lower() in TEXT_COMPRESSION else path


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed as they are read."""
    try:
        if path.suffix.lower() == ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        if path.suffix.lower() == ".zst":
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
            return io.BufferedReader(reader)
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error


def lines(stream: IO[bytes], where: str) -> Iterator[str]:
    """The lines of a UTF-8 text, ends included: CRLF becomes LF, a byte order mark at the front is left out.

    Raises CorpusError with the byte offset (in the decompressed text) of the first byte that is not UTF-8.
    """
    offset = 0
    for raw in _raw_lines(stream, where):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            raise CorpusError(
                f"{where} is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start:,}",
                f"convert it, for example `iconv -f {_guess(raw, offset)} -t UTF-8 FILE > NEW`",
            ) from error
        if offset == 0:
            line = line.removeprefix("\ufeff")
        offset += len(raw)
        yield line[:-2] + "\n" if line.endswith("\r\n") else line


def _raw_lines(stream: IO[bytes], where: str) -> Iterator[bytes]:
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    try:
        import zstandard

        errors += (zstandard.ZstdError,)
    except ImportError:
        pass  # then no .zst stream can have been opened
    with stream:
        try:
            yield from stream
        except errors as error:
            raise CorpusError(f"{where} is damaged: {error}", COPY_AGAIN) from error


def _guess(raw: bytes, offset: int) -> str:
    return "UTF-16" if offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"


def json_rows(stream: IO[bytes], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place as file:line, object) of each line that is not blank. Raises CorpusError for a line that is no object."""
    for number, line in enumerate(lines(stream, where), start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{place} is not JSON: {error}", "write one JSON object per line") from error
        except RecursionError as error:
            raise CorpusError(f"{place} is nested too deeply", "write one flat JSON object per line") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{place} holds a {type(row).__name__}, not an object", "write one JSON object per line")
        yield place, row


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
