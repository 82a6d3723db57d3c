"""A hash for the content of a text: equal where and only where the same text is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_HASHED_BYTES = 256 * 2**20  # larger files are hashed in part
SAMPLES = 64  # pieces of SAMPLE_BYTES that are hashed of a larger file, with its size
SAMPLE_BYTES = 2**20


def of_file(path: Path) -> str:
    """sha256 hex of the file's bytes; above 256 MiB of its size and 64 evenly spaced mebibytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= MAX_HASHED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for sample in range(SAMPLES):
            file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()


def of_splits(content: Mapping[str, list[str]], **options: Any) -> str:
    """sha256 hex of the content hashes by split and of how the text is read (field, unit ...). Paths do not enter."""
    canonical = json.dumps({"parts": content, **options}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
