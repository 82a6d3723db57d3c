"""The disk limit of `run --checkpoint-disk`: weights of downloaded models are deleted when the next model needs room.

Only what this run downloaded itself is deleted, and of that only the weights: config and tokenizer stay, so that plans
and reports need no network. The record of downloads lies in the run's directory.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.errors import DoesNotFit
from peftodyssey.models import bin_conversion
from peftodyssey.models.source import ModelSource

RECORD = "downloaded.json"
WEIGHTS = ("*.safetensors", "*.bin")


def needed_bytes(source: ModelSource) -> int:
    """The disk that a Hub model takes: its weights, and their converted copy where they are pickled."""
    return source.weight_bytes_on_disk * (2 if source.pickled else 1) if source.kind == "hub" else 0


def make_room(root: Path, coming: ModelSource, budget_bytes: int) -> list[str]:
    """Deletes what this run downloaded and used longest ago until `coming` fits the limit too; the names of what went.

    Records in `root` that `coming` is this run's, unless its weights were there before. Raises DoesNotFit where it is
    too large on its own.
    """
    entries = read_record(root)
    is_ours = any(entry["commit"] == coming.fingerprint for entry in entries)
    if coming.kind != "hub" or (not is_ours and is_downloaded(coming)):
        return []
    if needed_bytes(coming) > budget_bytes:
        raise DoesNotFit(
            f"{coming.name} at {coming.revision or 'main'} takes {needed_bytes(coming) / 2**30:.2f} GiB of disk, and "
            f"--checkpoint-disk is {budget_bytes / 2**30:.2f} GiB",
            "give --checkpoint-disk more, or leave it out",
        )
    others = [entry for entry in entries if entry["commit"] != coming.fingerprint]
    deleted = []
    while others and sum(entry["bytes"] for entry in others) + needed_bytes(coming) > budget_bytes:
        entry = others.pop(0)
        delete_weights(entry)
        deleted.append(f"{entry['name']} at {entry['revision'] or 'main'}")
    assert coming.folder is not None
    coming_entry = {
        "name": coming.name,
        "revision": coming.revision,
        "commit": coming.fingerprint,
        "bytes": needed_bytes(coming),
        "folder": str(coming.folder.absolute()),
    }
    root.mkdir(parents=True, exist_ok=True)
    bin_conversion.write_json(root / RECORD, [*others, coming_entry])
    return deleted


def is_downloaded(source: ModelSource) -> bool:
    """Whether all weight files of a Hub model are in its snapshot folder already."""
    pattern = "*.bin" if source.pickled else "*.safetensors"
    downloaded = sum(file.stat().st_size for file in source.folder.glob(pattern)) if source.folder else 0
    return downloaded >= source.weight_bytes_on_disk


def read_record(root: Path) -> list[dict[str, Any]]:
    """What the run in `root` downloaded and has not deleted, longest unused first."""
    with contextlib.suppress(FileNotFoundError):
        return list(json.loads((root / RECORD).read_text(encoding="utf-8")))
    return []


def delete_weights(entry: Mapping[str, Any]) -> None:
    """Deletes the weights of a recorded model: its files in the Hub cache that no other snapshot uses, and a converted
    copy.
    """
    folder = Path(entry["folder"])
    for file in [path for pattern in WEIGHTS for path in folder.glob(pattern)]:
        blob = file.resolve()
        file.unlink()
        links = (path for path in folder.parent.rglob("*") if path.is_symlink())
        if blob != file and not any(link.resolve() == blob for link in links):
            blob.unlink(missing_ok=True)
    shutil.rmtree(bin_conversion.converted_folder(entry["commit"]), ignore_errors=True)
