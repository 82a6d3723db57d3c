"""Writing so that a reader sees the old file or the new one, whole, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from peftodyssey.errors import StoreError

CHUNK_BYTES = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable; a no-op where the platform has no folder handles."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def io_errors_as_store_error(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a StoreError that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}", _next_step(error)) from error


def _next_step(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space and start the same command again, nothing finished is lost"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a directory that you may write to with --out"
    return "check the path and start the same command again"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; on a clean exit it is synced and takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with io_errors_as_store_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, content.encode())


def write_with(path: Path, writer: Callable[[IO[bytes]], object]) -> None:
    """Let `writer` fill a binary file that then becomes `path`, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        writer(out)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
