"""`manifest.json` exists in a folder if and only if the result in that folder is complete.

A job calls `prepare_dir` before it writes and `commit` after; the scheduler calls `read`. What is not as it was
committed is damaged: for `read` its work is not finished, and `damage` says what is wrong.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout, sealed, verified

UNLISTED = {layout.MANIFEST, layout.FAILURE}
KEPT_ON_RESET = {".progress.json"}  # progress of an interrupted training


def prepare_dir(folder: Path, keep: tuple[str, ...] = ()) -> Path:
    """Create `folder` and delete what an earlier attempt left in it, except names in `keep`."""
    with atomic.io_errors_as_store_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if entry.name not in keep and entry.name not in KEPT_ON_RESET:
                remove(entry)
        verified.forget(folder)
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
        verified.remember(folder, files)
    manifest = sealed.write(folder / layout.MANIFEST, {**payload, "files": files})
    (folder / layout.FAILURE).unlink(missing_ok=True)
    return manifest


def fail(folder: Path, reason: str, where: str) -> None:
    """Record why the work of `folder` failed; the next start tries it again."""
    sealed.write(folder / layout.FAILURE, {"status": "failed", "reason": reason, "where": where})


def failure(folder: Path) -> dict[str, Any] | None:
    """The recorded failure of `folder`; None where there is none, or its record is damaged."""
    return _whole(folder / layout.FAILURE)


def stop(folder: Path) -> dict[str, Any] | None:
    """When and why the training of `folder` was stopped before its end; None where it was not, or as `failure`."""
    return _whole(folder / layout.STOPPED)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`; None where its work is not finished, or something of it is damaged."""
    content = _whole(folder / layout.MANIFEST)
    if content is None or not _is_manifest(content) or verified.wrong_files(folder, content["files"]):
        return None
    return content


def damage(folder: Path, *, afresh: bool = False) -> dict[str, str]:
    """What is wrong with a folder whose work was finished: file -> what; empty where it is whole or not finished.

    With `afresh` every file is hashed again.
    """
    try:
        content = sealed.read(folder / layout.MANIFEST)
    except sealed.Damaged as damaged:
        return {layout.MANIFEST: damaged.what}
    if content is None:
        return {}
    if not _is_manifest(content):
        return {layout.MANIFEST: "it does not list files with their sha256, or its facts are of another kind"}
    return verified.wrong_files(folder, content["files"], afresh=afresh)


def refuse_damaged(weights: Path) -> None:
    """StoreError where the weights of a cell, or a rung of a ladder trained here, are not as they were committed."""
    folder = weights.absolute()
    if folder.name in (layout.ADAPTER, layout.WEIGHTS):
        own = (layout.MANIFEST, f"{folder.name}/")
        wrong = {name: what for name, what in damage(folder.parent).items() if name.startswith(own)}
    else:  # a manifest.json elsewhere may be another program's
        wrong = damage(folder) if (folder.parent / layout.LADDER).is_file() else {}
    if wrong:
        raise StoreError(f"{weights} is damaged: {in_words(wrong)}", "run its recipe again: it is trained again")


def status_record(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, else what is damaged, why it failed or was stopped, else {"status": "pending"}."""
    if (written := read(folder)) is not None:
        return {"status": "done", **written}
    if wrong := damage(folder):
        return {"status": "damaged", "reason": in_words(wrong)}
    return failure(folder) or stop(folder) or {"status": "pending"}


def in_words(wrong: Mapping[str, str]) -> str:
    """What is wrong with files, in a sentence."""
    return "; ".join(f"{name} {what}" for name, what in wrong.items())


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        return sealed.read(path)
    except sealed.Damaged:
        return None


def _is_manifest(content: Mapping[str, Any]) -> bool:
    files, facts = content.get("files"), content.get("facts", {})
    if not isinstance(files, dict) or not isinstance(facts, dict):
        return False
    return all(isinstance(digest, str) for digest in files.values())
