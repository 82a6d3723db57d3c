"""Forgetting of a share of a finished update that has changed the text adapted to by a given amount."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BISECTIONS = 60


def forgetting_at_change(curve: Sequence[tuple[float, float, float]], change: float) -> float | None:
    """The change on general text where a curve first has this `change` on the text adapted to.

    `curve` holds (share of the update, change on the text adapted to, change on general text) in nats per token, from
    the base to the whole update (WiSE-FT). Along a line in weight space both losses are quadratic to second order in
    the share, so both are interpolated in it by the parabola through the three nearest shares: a straight line between
    shares puts a convex loss too high. None where the curve never has that change.
    """
    share, learned, forgotten = np.array(curve, np.float64).reshape(-1, 3).T
    for i in range(len(curve) - 1):
        for point in (i, i + 1):
            if learned[point] == change:
                return float(forgotten[point])
        low, high = sorted((learned[i], learned[i + 1]))
        if low <= change <= high:
            near = _nearest(share, i)
            where = _share_at(share[near], learned[near], (share[i], share[i + 1]), change)
            return _parabola(share[near], forgotten[near], where)
    return None


def _nearest(share: np.ndarray, i: int) -> slice:
    """Three points around the interval from `i` to `i + 1`, the nearer neighbour as the third; two where there are
    no more.
    """
    before = share[i] - share[i - 1] if i > 0 else np.inf
    after = share[i + 2] - share[i + 1] if i + 2 < len(share) else np.inf
    if np.isinf(before) and np.isinf(after):
        return slice(i, i + 2)
    return slice(i - 1, i + 2) if before < after else slice(i, i + 3)


def _share_at(share: np.ndarray, learned: np.ndarray, interval: tuple[float, float], change: float) -> float:
    """Where the parabola has `change` within the interval, at whose ends it lies on different sides of it."""
    low, high = interval
    rising = _parabola(share, learned, high) > _parabola(share, learned, low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if (_parabola(share, learned, middle) > change) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _parabola(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The value at `at` of the polynomial through two or three points (Lagrange)."""
    others = [np.delete(x, k) for k in range(len(x))]
    weights = [np.prod((at - other) / (own - other)) for own, other in zip(x, others, strict=True)]
    return float(np.dot(weights, y))
