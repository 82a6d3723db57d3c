"""Counts and bytes as people write them."""

from __future__ import annotations

from peftodyssey.display.result_text import NO_NUMBER


def format_count(value: float | None) -> str:
    """A count as people write it: 65.5k, 3.1M."""
    if value is None:
        return NO_NUMBER
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def format_bytes(value: int | None) -> str:
    """Bytes as MiB, or as GiB from 1 GiB on."""
    if value is None:
        return NO_NUMBER
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
