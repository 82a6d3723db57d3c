"""A name for the content of a text: equal where and only where the same text is read. Called by corpora.source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WHOLE_BYTES = 256 * 2**20  # files up to this size are hashed whole
SAMPLES = 64  # pieces of SAMPLE_BYTES hashed of a larger one, beside its size
SAMPLE_BYTES = 2**20


def of_file(path: Path) -> str:
    """sha256 hex of the file's bytes; above 256 MiB of its size and 64 evenly spaced mebibytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for sample in range(SAMPLES):
            file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()


def of_parts(parts: dict[str, list[str]], **read: Any) -> str:
    """sha256 hex of content hashes by split and of how the text is read (`read`: field, unit). Paths do not enter."""
    told = json.dumps({"parts": parts, **read}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()
