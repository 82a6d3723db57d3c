"""Forgetting at equal learning: where a curve of shares of one update has learnt as much as another cell. Called by
`report.constraints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]  # change on the text adapted to, change on general text; nats per token


def forgetting_at_learning(curve: Sequence[Point], change: float) -> float | None:
    """The change on general text where the curve first comes to `change` on the text adapted to, linear between its
    points.

    `curve` goes from the base to the whole update. None where it nowhere learns as much (or as little) as that.
    """
    for (learnt, lost), (more, then) in pairwise(curve):
        if min(learnt, more) <= change <= max(learnt, more):
            return lost if more == learnt else lost + (then - lost) * (change - learnt) / (more - learnt)
    return None
