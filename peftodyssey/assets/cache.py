"""Bundled models unpacked to the user's cache, in folders laid out like Hub repositories.

A folder's name has a hash of its content, so versions do not mix. Files are written to temporary names, synced and
renamed, so several processes may unpack at once. A folder is returned only when every file in it is verified.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.assets import bf16_codec
from peftodyssey.assets.catalogue import DEFAULT_RUNG, checksums, data_file
from peftodyssey.errors import StoreError

WEIGHTS = "model.safetensors"
Entry = Mapping[str, Any]

_verified: dict[Path, tuple[int, int]] = {}  # (size, mtime) of files whose SHA-256 this process has verified


def cache_folder() -> Path:
    """Where bundled models are unpacked: PEFTODYSSEY_CACHE, or `peftodyssey` in the platform's cache folder."""
    if configured := os.environ.get("PEFTODYSSEY_CACHE"):
        return Path(configured).expanduser().absolute()
    if xdg_cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg_cache).expanduser().absolute() / "peftodyssey"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "peftodyssey"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else _home() / "AppData" / "Local") / "peftodyssey" / "cache"
    return _home() / ".cache" / "peftodyssey"


def model_files(model: str) -> Path:
    """Folder with the small files of `model` (config, tokenizer, ladder, README) and no weights.

    Raises KeyError on an unknown model, StoreError where the cache cannot be written.
    """
    entries = checksums()["models"][model]["files"]
    folder = cache_folder() / "models" / f"{model}-{_hash8(entries)}"
    _write_missing(folder, model, entries)
    return folder


def unpack_model(model: str, rung: str | None = None) -> Path:
    """Folder laid out as a Hub repository: the small files of `model` and a rung's weights as model.safetensors.

    Raises KeyError on an unknown model or rung, StoreError where the cache cannot be written.
    """
    table = checksums()["models"][model]
    rung = rung or DEFAULT_RUNG
    entries = {**table["files"], WEIGHTS: table["rungs"][rung]}
    folder = cache_folder() / "models" / f"{model}-{rung}-{_hash8(entries)}"
    _write_missing(folder, model, entries, rung)
    return folder


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise _cannot_unpack(Path("~"), error) from error


def _hash8(entries: Mapping[str, Entry]) -> str:
    return hashlib.sha256(repr(sorted((n, e["sha256"]) for n, e in entries.items())).encode()).hexdigest()[:8]


def _write_missing(folder: Path, model: str, entries: Mapping[str, Entry], rung: str = "") -> None:
    """Writes the files of `entries` that are missing or damaged in `folder`."""
    try:
        for name, entry in entries.items():
            if not _is_intact(folder / name, entry):
                _write(folder / name, _content(model, name, rung), entry)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise _cannot_unpack(folder, error) from error


def _is_intact(path: Path, entry: Entry) -> bool:
    """Whether `path` has the recorded SHA-256; after the first check in this process, the same size and mtime."""
    try:
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns)
        if status.st_size != entry["bytes"]:
            return False
        if _verified.get(path) != state:
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                return False
            _verified[path] = state
    except (FileNotFoundError, PermissionError):  # an unreadable file is replaced, if its folder allows that
        return False
    return True


def _content(model: str, name: str, rung: str) -> bytes:
    if name == WEIGHTS:
        return bf16_codec.unpack(data_file("models", model, f"{rung}.safetensors.xz").read_bytes())
    return data_file("models", model, name).read_bytes()


def _write(path: Path, content: bytes, entry: Entry) -> None:
    """Writes `content` to `path` completely or not at all, after checking its SHA-256."""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise StoreError(
            f"the installed package is damaged: {path.name} of {path.parent.name} has a wrong SHA-256",
            "install peftodyssey again",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o644)
        _replace(temporary, path, entry)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path, entry: Entry) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError:  # on Windows a file that another process has mapped cannot be replaced
        if not _is_intact(path, entry):
            raise


def _cannot_unpack(folder: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or str(error)
    return StoreError(
        f"cannot unpack a bundled model to {folder}: {reason}",
        "set PEFTODYSSEY_CACHE to a folder that can be written and has 60 MB free",
    )
