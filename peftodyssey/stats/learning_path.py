"""Forgetting at given learning along a method's path: from its origin over its cells, one path a seed and resample.

The origin is the base as the method trains it: (0, 0), and for a quantised base what its storage costs on both axes. A
cell that another one of the path surpasses (it learned more and forgot less) is left out; the origin stays.
"""

from __future__ import annotations

import numpy as np

from peftodyssey.stats.monotone_interpolation import pchip


def reach(learning: np.ndarray) -> np.ndarray:
    """The most that each path learned, float64 [n], of [n, cells]."""
    return np.asarray(learning.max(axis=1))


def forgetting_at(origin: np.ndarray, cells: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Forgetting of n paths at `levels` of learning [m], float64 [n, m]; NaN where none of its cells learned anything.

    `origin` float64 [n, 2] and `cells` [n, cells, 2] are pairs (learning, forgetting), nats per token.
    """
    order = np.argsort(cells[:, :, 0], axis=1, kind="stable")
    x, y = (np.take_along_axis(cells[:, :, axis], order, axis=1) for axis in (0, 1))
    kept = _front(x, y) & (x > origin[:, :1])
    x, y = np.concatenate([origin[:, :1], x], 1), np.concatenate([origin[:, 1:], y], 1)
    kept = np.concatenate([np.ones((len(x), 1), bool), kept], 1)
    out = np.full((len(x), len(levels)), np.nan)
    patterns, pattern_of = np.unique(kept, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(pattern_of.ravel() == number)
        if pattern.sum() > 1:
            out[rows] = pchip(x[rows][:, pattern], y[rows][:, pattern], levels)
    return out


def _front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool [n, k]: no cell further on, of ascending x [n, k], has the same x or less y."""
    least_behind = np.minimum.accumulate(y[:, ::-1], axis=1)[:, ::-1]
    least_behind = np.concatenate([least_behind[:, 1:], np.full((len(y), 1), np.inf)], 1)
    next_x = np.concatenate([x[:, 1:], np.full((len(x), 1), np.inf)], 1)
    return np.asarray((y < least_behind) & (x < next_x))
