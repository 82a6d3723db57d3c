"""One disk budget for the models that a run downloads: what is done with goes when the next one needs the room.

Called by `jobs.bases` where `run --checkpoint-disk` is given. Only what this run itself downloaded is ever dropped, and
only its weights: config and tokenizer stay, so that plans and reports need no network. The record lies in the run's
directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.errors import DoesNotFit
from peftodyssey.models import bin_conversion
from peftodyssey.models.source import ModelSource

RECORD = "downloaded.json"
WEIGHTS = ("*.safetensors", "*.bin")


def needed_bytes(source: ModelSource) -> int:
    """What a Hub model takes of the disk: its weights, and their converted copy where they are pickled."""
    return source.weight_bytes_on_disk * (2 if source.pickled else 1) if source.kind == "hub" else 0


def make_room(root: Path, coming: ModelSource, budget_bytes: int) -> list[str]:
    """Drop what this run downloaded and used longest ago until `coming` fits the budget too; the names of what went.

    Notes in `root` that `coming` is this run's, unless its weights were there before. Raises DoesNotFit where it alone
    is too large.
    """
    held = read_record(root)
    mine = [entry for entry in held if entry["commit"] == coming.fingerprint]
    if coming.kind != "hub" or (not mine and is_downloaded(coming)):
        return []
    if needed_bytes(coming) > budget_bytes:
        raise DoesNotFit(
            f"{coming.name} at {coming.revision or 'main'} takes {needed_bytes(coming) / 2**30:.2f} GiB of disk, and --checkpoint-disk is "
            f"{budget_bytes / 2**30:.2f} GiB",
            "give --checkpoint-disk more, or leave it out",
        )
    others = [entry for entry in held if entry["commit"] != coming.fingerprint]
    dropped = []
    while others and sum(entry["bytes"] for entry in others) + needed_bytes(coming) > budget_bytes:
        entry = others.pop(0)
        delete_weights(entry)
        dropped.append(f"{entry['name']} at {entry['revision'] or 'main'}")
    assert coming.folder is not None
    told = {
        "name": coming.name,
        "revision": coming.revision,
        "commit": coming.fingerprint,
        "bytes": needed_bytes(coming),
        "folder": str(coming.folder.absolute()),
    }
    _write(root, [*others, told])
    return dropped


def is_downloaded(source: ModelSource) -> bool:
    """Whether all weight files of a Hub model are in its snapshot folder already."""
    pattern = "*.bin" if source.pickled else "*.safetensors"
    there = sum(file.stat().st_size for file in source.folder.glob(pattern)) if source.folder else 0
    return there >= source.weight_bytes_on_disk


def read_record(root: Path) -> list[dict[str, Any]]:
    """What the run in `root` downloaded and has not dropped, longest unused first."""
    with contextlib.suppress(FileNotFoundError):
        return list(json.loads((root / RECORD).read_text(encoding="utf-8")))
    return []


def delete_weights(entry: Mapping[str, Any]) -> None:
    """Delete the weights of a recorded model: its files in the Hub cache that no other snapshot uses, and a converted
    copy.
    """
    folder = Path(entry["folder"])
    for file in [path for pattern in WEIGHTS for path in folder.glob(pattern)]:
        blob = file.resolve()
        file.unlink()
        if blob != file and not _used(blob, folder.parent):
            blob.unlink(missing_ok=True)
    shutil.rmtree(bin_conversion.converted_folder(entry["commit"]), ignore_errors=True)


def _used(blob: Path, snapshots: Path) -> bool:
    return any(path.is_symlink() and path.resolve() == blob for path in snapshots.rglob("*"))


def _write(root: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(list(entries), indent=1), encoding="utf-8")
    os.replace(temporary, root / RECORD)
