"""A folder's last word: `manifest.json` exists if and only if the result beside it is whole.

Jobs call `fresh` before they write and `commit` after; the scheduler asks `read`.
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
KEPT_ON_RESET = {".progress.json"}  # how far an interrupted training was


def prepare_dir(folder: Path, keep: tuple[str, ...] = ()) -> Path:
    """Empty `folder` of an earlier attempt's leftovers, except names in `keep`, and make it."""
    with atomic.io_errors_as_store_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if entry.name not in keep and entry.name not in KEPT_ON_RESET:
                remove(entry)
    return folder


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
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
            with path.open("rb") as written:
                os.fsync(written.fileno())
            files[name] = atomic.sha256(path)
            folders.add(path.parent)
        for parent in folders:
            atomic.sync_folder(parent)
    manifest = {**payload, "files": files}
    atomic.write_text(folder / layout.MANIFEST, to_json(manifest))
    (folder / layout.FAILURE).unlink(missing_ok=True)
    return manifest


def fail(folder: Path, reason: str, where: str) -> None:
    """Record that the work of `folder` could not be done, and why; the next start tries it again."""
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
    """What is known of `folder`: its manifest, or why it failed or was stopped; `status` alone, pending, where nothing
    is.
    """
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
    """Numbers of numpy and paths, which json does not know."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


def _load(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}", "delete this file; its work is then done again") from error
