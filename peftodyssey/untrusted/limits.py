"""What input may take of time and memory, in one place; docs/trust.md lists it. Floor 0.

An input that exceeds a limit is refused in a sentence that names the limit; nothing is truncated in silence.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPE_BYTES = 1 << 20
RECIPE_NODES = 10_000  # values, aliases written out
SQL_SECONDS = 60.0  # of a query; --timeout
SQL_BYTES = 4 << 30  # of a query's memory, and of its answer
STORE_JSON_BYTES = 512 << 20  # a manifest or a plan; the plan of 100,000 cells has 250 MB
CONFIG_BYTES = 8 << 20  # config.json, adapter_config.json, the index of shards
HEADER_BYTES = 100 << 20  # of a safetensors file, as the format has it
LAYERS = 1000  # that a config.json may name; the largest published models have 126
WIDTH = 1 << 20  # of a layer, and heads
VOCABULARY = 1 << 24
POSITIONS = 1 << 30
TEMPLATE_BYTES = 1 << 20  # a chat template
TEMPLATE_SECONDS = 5.0  # of processor time, for one conversation
PATTERN_SECONDS = 2.0  # of processor time, for the regular expressions of a method on all names of a model
ISOLATED_BYTES = 1 << 30  # of memory, for templates and regular expressions
ISOLATED_ANSWER_BYTES = 64 << 20  # of text that a template writes


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a regular file; ValueError where it is something else or longer than `limit`, else OSError."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # a folder's own error says what it is
        raise ValueError("it is no regular file (a pipe, a socket or a device)")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is longer than {limit:,} bytes")
    return content


def parse_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text; ValueError where it is none, is not UTF-8, or is nested too deeply to be read."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
