"""JSON files of the store that say whether they are whole: each has the number of its schema and its own checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic
from peftodyssey.untrusted import limits

SCHEMA_KEY, CHECKSUM_KEY = "schema", "checksum"
SCHEMA = 1  # of manifests, plans and records; a later version raises it where it writes what this one cannot read


class Damaged(StoreError):
    """A file of the store is not what was written; `what` says so without the file's name."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path} is damaged: {what}",
            "start the run again, it makes again what is damaged; `peftodyssey check DIR` lists all damage",
        )
        self.args = (path, what)
        self.what = what


def write(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write `content` with schema and checksum, complete or not at all; returns what was written."""
    body = {**content, SCHEMA_KEY: SCHEMA}
    written = {**body, CHECKSUM_KEY: checksum(body)}
    atomic.write_text(path, to_json(written))
    return written


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote, without its checksum; None where there is no such file.

    Raises Damaged where it is not what was written, StoreError where it cannot be read or a later version wrote it.
    A file of the time before checksums has neither key and is read as it is.
    """
    try:
        content = limits.parse_json(limits.read_bytes(path, limits.STORE_JSON_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error
    except ValueError as error:
        raise Damaged(path, f"it cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise Damaged(path, "it is no JSON object")
    told = content.pop(CHECKSUM_KEY, None)
    if told is None and SCHEMA_KEY not in content:
        return content
    if told != checksum(content):
        raise Damaged(path, "its content does not have its checksum")
    if content.get(SCHEMA_KEY, 0) > SCHEMA:
        raise StoreError(
            f"{path} was written by a later version (schema {content[SCHEMA_KEY]}, this one reads {SCHEMA})",
            "pip install -U peftodyssey",
        )
    return content


def to_json(content: Mapping[str, Any]) -> str:
    """Readable JSON with a stable order of keys."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as JSON with sorted keys and no spaces."""
    try:
        text = json.dumps(
            content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
        return hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, TypeError, RecursionError):  # such as NaN or a lone surrogate, which `write` never wrote
        return "none"


def _plain(value: Any) -> Any:
    """numpy scalars and paths, which json cannot encode."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} cannot be written to a manifest")
