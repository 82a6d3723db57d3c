"""Sizes and durations as options and arguments give them, with an error for the user where they are none."""

from __future__ import annotations

from peftodyssey.errors import InputError
from peftodyssey.recipe.numbers import parse_bytes, parse_duration

LEAST_MEMORY_BYTES = 1 << 20


def seconds(text: str | None) -> float | None:
    """Seconds of a duration such as `10m` or `8h`; InputError where it is none."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no duration: {error}", "write 30s, 10m or 8h") from error


def size_bytes(memory: str | int | None, option: str = "--memory") -> int | None:
    """Bytes of a size such as `22GiB`, given as `option`; InputError where it is none, or too small to be meant."""
    if memory is None:
        return None
    try:
        size = parse_bytes(memory)
    except ValueError as error:
        raise InputError(f"{option} {memory} is no size: {error}", "write 8GiB, 22GiB or 24GB") from error
    if size < LEAST_MEMORY_BYTES:
        raise InputError(f"{option} {memory} is {size:,} bytes, which hold no model", "write 8GiB, 22GiB or 24GB")
    return size
