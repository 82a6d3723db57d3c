"""`manifest.json` exists in a folder if and only if the result in that folder is complete.

A job calls `prepare_dir` before it writes and `commit` after; the scheduler calls `read`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout

UNLISTED = {layout.MANIFEST, layout.FAILURE}
KEPT_ON_RESET = {".progress.json"}  # progress of an interrupted training


def prepare_dir(folder: Path, keep: tuple[str, ...] = ()) -> Path:
    """Create `folder` and delete what an earlier attempt left in it, except names in `keep`."""
    with atomic.io_errors_as_store_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if entry.name not in keep and entry.name not in KEPT_ON_RESET:
                remove(entry)
    return folder


def remove(path: Path) -> None:
    """Delete a file or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def commit(folder: Path, payload: Mapping[str, Any], *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Sync every file of `folder`, then write its manifest with their sha256; returns what was written.

    Names in `leave_out` (a checkpoint that is about to be dropped) are not listed.
    """
    with atomic.io_errors_as_store_error(folder):
        files: dict[str, str] = {}
        folders = {folder}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            if name in UNLISTED or name.split("/", 1)[0] in leave_out or path.name.startswith("."):
                continue
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[name] = atomic.sha256(path)
            folders.add(path.parent)
        for parent in folders:
            atomic.sync_folder(parent)
    manifest = {**payload, "files": files}
    atomic.write_text(folder / layout.MANIFEST, to_json(manifest))
    (folder / layout.FAILURE).unlink(missing_ok=True)
    return manifest


def fail(folder: Path, reason: str, where: str) -> None:
    """Record why the work of `folder` failed; the next start tries it again."""
    atomic.write_text(folder / layout.FAILURE, to_json({"status": "failed", "reason": reason, "where": where}))


def failure(folder: Path) -> dict[str, Any] | None:
    """The recorded failure of `folder`, None where there is none."""
    return _load(folder / layout.FAILURE)


def stop(folder: Path) -> dict[str, Any] | None:
    """When and why the training of `folder` was stopped before its end, None where it was not."""
    return _load(folder / layout.STOPPED)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`, None where its work is not finished."""
    manifest = _load(folder / layout.MANIFEST)
    if manifest is None or not all((folder / name).is_file() for name in manifest.get("files", {})):
        return None
    return manifest


def status_record(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, else why it failed or was stopped, else {"status": "pending"}."""
    return read(folder) or failure(folder) or stop(folder) or {"status": "pending"}


def damaged(folder: Path) -> list[str]:
    """Names of listed files whose bytes are not those that were committed."""
    manifest = _load(folder / layout.MANIFEST) or {}
    return [
        name
        for name, digest in manifest.get("files", {}).items()
        if not (folder / name).is_file() or atomic.sha256(folder / name) != digest
    ]


def to_json(content: Mapping[str, Any]) -> str:
    """Readable JSON with a stable order of keys."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """numpy scalars and paths, which json cannot encode."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} cannot be written to a manifest")


def _load(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}", "delete this file and start the same command again") from error
