"""Files to lines and rows: plain, .gz and .zst text, JSON lines, parquet."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from peftodyssey.errors import CorpusError

COMPRESSED = (".gz", ".zst")
FORMATS = {".txt": "txt", ".md": "txt", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".parquet": "parquet"}
COPY_AGAIN = "copy the file again, or write it again"


def format_of(path: Path) -> str | None:
    """`txt`, `json` or `parquet` by the file's ending, one compression ending aside; None for anything else."""
    return FORMATS.get(bare(path).suffix.lower())


def bare(path: Path) -> Path:
    """The path without .gz or .zst."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


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
