"""The bytes of a file, decompressed, and the lines of a UTF-8 text. Compression is known by the first bytes."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from peftodyssey.errors import CorpusError

MAX_LINE_BYTES = 64 << 20  # of a line, and of a row: a longer one would not stay within the memory of a cap
PIECE_BYTES = 1 << 20
COPY_AGAIN = "copy the file again, or write it again"
BOM = b"\xef\xbb\xbf"
# First bytes of files that are no text, and what they are.
BINARY = {b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive or an office document", b"\x7fELF": "a program"}


def compression_of(head: bytes) -> str | None:
    """gz, zst, bz2 or xz by the first bytes of a file; None for anything else."""
    if head[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return "bz2"
    magic = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zXZ\x00": "xz"}
    return next((name for start, name in magic.items() if head.startswith(start)), None)


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed as they are read, whatever its name says."""
    try:
        with path.open("rb") as file:
            kind = compression_of(file.read(16))
        if kind == "zst":
            return io.BufferedReader(_ZstdFile(path.open("rb")), PIECE_BYTES)
        if kind == "gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        if kind == "bz2":
            return bz2.open(path, "rb")
        return lzma.open(path, "rb") if kind == "xz" else path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error


class _ZstdFile(io.RawIOBase):
    """The content of all frames of a .zst file. Raises EOFError where the last one is cut short."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file, self._new_frame = file, zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._left, self._ready = b"", b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` as far as there is content; 0 at the end."""
        while not self._ready:
            raw = self._left or self._file.read(1 << 17)
            self._left = b""
            if not raw:
                if self._frame is not None:
                    raise EOFError("the compressed data ends before its end mark")
                return 0
            self._frame = self._frame or self._new_frame()
            self._ready = self._frame.decompress(raw)
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        """Closes the file as well."""
        self._file.close()
        super().close()


def why_no_text(path: Path) -> str | None:
    """What a file of an unknown kind is where its first bytes are no text; None where they are."""
    with open_bytes(path) as stream, _damage(str(path)):
        head = stream.read(1 << 16)
    known = next((name for start, name in BINARY.items() if head.startswith(start)), None)
    is_utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")  # which `lines` refuses with the way to convert it
    return known or ("binary: it holds zero bytes" if b"\x00" in head and not is_utf16 else None)


def peek(stream: IO[bytes], where: str) -> bytes:
    """Some first bytes of a stream that stay unread, without a byte order mark and white space."""
    with _damage(where):
        head: bytes = stream.peek(1 << 12)[: 1 << 12]  # type: ignore[attr-defined]
    return head.removeprefix(BOM).lstrip()


def lines(stream: IO[bytes], where: str) -> Iterator[str]:
    """The lines of a UTF-8 text, ends included: CRLF becomes LF, a byte order mark at the front is left out.

    Raises CorpusError with the byte offset (in the decompressed text) of the first byte that is not UTF-8, and for a
    line of more than MAX_LINE_BYTES.
    """
    offset = 0
    for number, raw in enumerate(_raw_lines(stream, where), start=1):
        if len(raw) > MAX_LINE_BYTES:
            raise too_long(f"{where}:{number}")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(where, raw[error.start], offset + error.start, _guess(raw, offset)) from error
        if offset == 0:
            line = line.removeprefix("\ufeff")
        offset += len(raw)
        yield line[:-2] + "\n" if line.endswith("\r\n") else line


def pieces(stream: IO[bytes], where: str) -> Iterator[str]:
    """A UTF-8 text in pieces of about a mebibyte, wherever they end; as `lines` otherwise."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with stream:
        while True:
            with _damage(where):
                raw = stream.read(PIECE_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                place = offset - pending + error.start
                raise _not_utf8(where, error.object[error.start], place, _guess(raw, offset)) from error
            yield text.removeprefix("\ufeff") if offset == 0 else text
            if not raw:
                return
            offset += len(raw)


def too_long(place: str) -> CorpusError:
    """The refusal of a line or row that is longer than any document."""
    return CorpusError(
        f"{place} is longer than {MAX_LINE_BYTES >> 20} MiB, the most that is read of one line or row",
        "cut it into rows or lines of a document each",
    )


def _raw_lines(stream: IO[bytes], where: str) -> Iterator[bytes]:
    with stream:
        while True:
            with _damage(where):
                line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            yield line


@contextmanager
def _damage(where: str) -> Iterator[None]:
    """Errors of decompression as a CorpusError."""
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
    try:
        import zstandard

        errors += (zstandard.ZstdError,)
    except ImportError:
        pass  # then no .zst stream can have been opened
    try:
        yield
    except errors as error:
        raise CorpusError(f"{where} is damaged: {error}", COPY_AGAIN) from error


def _not_utf8(where: str, byte: int, offset: int, encoding: str) -> CorpusError:
    return CorpusError(
        f"{where} is not UTF-8: byte 0x{byte:02x} at offset {offset:,}",
        f"convert it, for example `iconv -f {encoding} -t UTF-8 FILE > NEW`",
    )


def _guess(raw: bytes, offset: int) -> str:
    return "UTF-16" if offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
