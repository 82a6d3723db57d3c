"""Forgetting of a share of a finished update that has changed the text adapted to by a given amount."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def forgetting_at_change(curve: Sequence[tuple[float, float]], change: float) -> float | None:
    """The change on general text where a curve first has this `change` on the text adapted to, interpolated linearly.

    `curve` holds (change on the text adapted to, change on general text) in nats per token, from the base to the whole
    update (WiSE-FT). None where it never has that change.
    """
    for (x, y), (next_x, next_y) in pairwise(curve):
        if min(x, next_x) <= change <= max(x, next_x):
            return y if next_x == x else y + (next_y - y) * (change - x) / (next_x - x)
    return None
