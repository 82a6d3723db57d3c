"""Atomic writes: whatever happens, a reader sees the old file or the new one, complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from peftodyssey.errors import StoreError


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
    """Turn OSError into a StoreError that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}", _next_step(error)) from error


def _next_step(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space and start the same command again; finished results are kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a directory that you may write to with --out"
    return "check the path and start the same command again"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file to write to; on a clean exit it is synced and replaces `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with io_errors_as_store_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether there is a process of this number; always on Windows, where signal 0 is no question."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, complete or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8 to `path`, complete or not at all."""
    write_bytes(path, content.encode())


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
