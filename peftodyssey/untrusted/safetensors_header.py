"""The header of a safetensors file: 8 bytes (little-endian length), then JSON of tensors. No tensor is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.untrusted import limits

METADATA = "__metadata__"
DTYPE_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}  # of other types the size of a tensor is not checked


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """{tensor: {dtype, shape, data_offsets}} with its `__metadata__`, and the byte at which the tensors begin.

    Raises ValueError, with what is wrong, where the header is not one, or the file's length is not what it says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, limits.HEADER_BYTES):
            raise ValueError(f"it has {size} bytes, its header alone takes {8 + length}")
        try:
            header: dict[str, Any] = limits.parse_json(stream.read(length))
            ends = [_end(entry) for name, entry in header.items() if name != METADATA]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is not JSON of tensors ({error})") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"it has {size} bytes, its header says {expected}")
    return header, 8 + length


def _end(entry: Mapping[str, Any]) -> int:
    """The offset at which a tensor ends; ValueError where type, shape and offsets do not belong together."""
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(isinstance(n, int) and n >= 0 for n in (begin, end, *shape)) or not isinstance(entry["dtype"], str):
        raise ValueError(f"an entry is {entry!s:.80}")
    bits = DTYPE_BITS.get(entry["dtype"])
    if bits is not None and (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"{shape!s:.40} of {entry['dtype']} do not take {end - begin} bytes")
    return int(end)
