"""Methods compared where they have learnt equally much: a path of (learning, forgetting) pairs, its frontier, and a
level of it.

A method that moves less forgets less; what says something of it is what it forgets at a learning that others reach as
well. Nothing is extrapolated: beyond what a path reached there is no number. Called by `report.at_equal_learning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.t_distribution import t_quantile

MIN_SEEDS = 5  # below, points are shown and no interval
LEVELS = (0.5, 0.9)  # of the learning that every path of a comparison reaches


@dataclass(frozen=True)
class Frontier:
    """The least forgetting at each learning, nats per token: both ascending, from the base at (0, 0) on."""

    learning: np.ndarray
    forgetting: np.ndarray

    @property
    def reach(self) -> float:
        """The largest learning of the path."""
        return float(self.learning[-1])

    def at(self, learning: float) -> float | None:
        """Forgetting at a learning, between neighbours by a straight line; None beyond the frontier's ends."""
        if not 0 <= learning <= self.reach:
            return None
        return float(np.interp(learning, self.learning, self.forgetting))


def frontier(path: Sequence[tuple[float, float]]) -> Frontier:
    """The pairs of `path`, and the base, that no other pair beats: none learns at least as much and forgets less.

    Pairs that learnt nothing (0 or less), or are not finite, are left out. Forgetting may be negative: general text
    improved.
    """
    pairs = sorted(
        ((x, y) for x, y in path if np.isfinite(x) and np.isfinite(y) and x > 0), key=lambda pair: (pair[0], -pair[1])
    )
    kept: list[tuple[float, float]] = []
    for x, y in reversed(pairs):  # from the most learnt down, each must forget less than all that learnt more
        if not kept or (y < kept[-1][1] and x < kept[-1][0]):
            kept.append((x, y))
    kept.append((0.0, min(0.0, kept[-1][1]) if kept else 0.0))
    learning, forgetting = np.array(kept[::-1], np.float64).T
    return Frontier(learning, forgetting)


@dataclass(frozen=True)
class MatchedForgetting:
    """Forgetting of two methods at one learning: the mean difference, one minus other, over the seeds that both have."""

    learning: float  # nats per token, of validation text
    first: float
    second: float
    difference: float
    lower: (
        float | None
    )  # 95 % interval by Student's t over seeds; None below five seeds, whose differences are in `each`
    upper: float | None
    differences: tuple[float, ...]


def compare_at_level(
    one: Mapping[int, Frontier], other: Mapping[int, Frontier], level: float
) -> MatchedForgetting | None:
    """Two methods at `level` of the learning that all their seeds reach; None where they share no seed or learnt
    nothing.
    """
    seeds = sorted(set(one) & set(other))
    reach = min((f[seed].reach for f in (one, other) for seed in seeds), default=0.0)
    if reach <= 0:
        return None
    learning = level * reach
    pairs = [(one[seed].at(learning), other[seed].at(learning)) for seed in seeds]
    left, right = (np.array(values, np.float64) for values in zip(*pairs, strict=True))
    each = left - right
    lo, hi = mean_interval(each)
    return MatchedForgetting(
        learning, float(left.mean()), float(right.mean()), float(each.mean()), lo, hi, tuple(map(float, each))
    )


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """Ends of Student's interval of the mean of float64[n]; (None, None) below FEWEST_SEEDS values."""
    n = len(values)
    if n < MIN_SEEDS:
        return None, None
    half = t_quantile((1 + level) / 2, n - 1) * float(np.std(values, ddof=1)) / n**0.5
    middle = float(np.mean(values))
    return middle - half, middle + half
