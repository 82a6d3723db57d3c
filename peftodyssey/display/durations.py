"""Seconds as people read them."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """2.1 s, 40 s, 3 min, 2.5 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
