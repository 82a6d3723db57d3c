"""Forgetting compared where methods have learned equally much (matched learning).

A method that learns less also forgets less, so forgetting is compared at a learning that all of them reach. Nothing is
extrapolated: beyond what a method reached there is no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from peftodyssey.stats.t_distribution import t_quantile

MIN_SEEDS = 5  # for an interval over seeds
LEVELS = (0.5, 0.9)  # of the learning that every seed of both methods reaches


@dataclass(frozen=True)
class Frontier:
    """The least forgetting at each learning, nats per token; both arrays ascend from the base at (0, 0)."""

    learning: np.ndarray
    forgetting: np.ndarray

    @property
    def max_learning(self) -> float:
        """The largest learning that was reached."""
        return float(self.learning[-1])

    def at(self, learning: float) -> float | None:
        """Forgetting at a learning, by linear interpolation; None beyond the ends of the frontier."""
        if not 0 <= learning <= self.max_learning:
            return None
        return float(np.interp(learning, self.learning, self.forgetting))


def frontier(pairs: Sequence[tuple[float, float]]) -> Frontier:
    """The Pareto front of (learning, forgetting) pairs and the base: no pair learns at least as much and forgets less.

    Pairs that learned nothing (0 or less) or are not finite are left out. Forgetting may be negative: general text
    improved.
    """
    usable = sorted(
        ((x, y) for x, y in pairs if np.isfinite(x) and np.isfinite(y) and x > 0), key=lambda pair: (pair[0], -pair[1])
    )
    front: list[tuple[float, float]] = []
    for x, y in reversed(usable):  # from the most learned down; each must forget less than all that learned more
        if not front or (y < front[-1][1] and x < front[-1][0]):
            front.append((x, y))
    front.append((0.0, min(0.0, front[-1][1]) if front else 0.0))
    learning, forgetting = np.array(front[::-1], np.float64).T
    return Frontier(learning, forgetting)


@dataclass(frozen=True)
class MatchedForgetting:
    """Forgetting of two methods at one learning, means over the seeds that both have; difference: first - second."""

    learning: float  # nats per token of validation text
    first: float
    second: float
    difference: float
    lower: float | None  # 95 % interval by Student's t over seeds; None below MIN_SEEDS seeds
    upper: float | None
    differences: tuple[float, ...]  # of each seed


def compare_at_level(
    first: Mapping[int, Frontier], second: Mapping[int, Frontier], level: float
) -> MatchedForgetting | None:
    """Two methods' frontiers by seed at `level` of the learning that all of these reach; None without a common one."""
    seeds = sorted(set(first) & set(second))
    common = min((method[seed].max_learning for method in (first, second) for seed in seeds), default=0.0)
    if common <= 0:
        return None
    learning = level * common
    forgetting = [(first[seed].at(learning), second[seed].at(learning)) for seed in seeds]
    a, b = (np.array(values, np.float64) for values in zip(*forgetting, strict=True))
    differences = a - b
    mean_a, mean_b, mean = (float(values.mean()) for values in (a, b, differences))
    return MatchedForgetting(
        learning, mean_a, mean_b, mean, *mean_interval(differences), differences=tuple(map(float, differences))
    )


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """Student's interval of the mean of float64 [n]; (None, None) below MIN_SEEDS values."""
    n = len(values)
    if n < MIN_SEEDS:
        return None, None
    half_width = t_quantile((1 + level) / 2, n - 1) * float(np.std(values, ddof=1)) / n**0.5
    mean = float(np.mean(values))
    return mean - half_width, mean + half_width


def forgetting_at_change(curve: Sequence[tuple[float, float]], change: float) -> float | None:
    """The change on general text where a curve first has this `change` on the text adapted to, interpolated linearly.

    `curve` holds (change on the text adapted to, change on general text) in nats per token, from the base to the whole
    update (WiSE-FT). None where it never has that change.
    """
    for (x, y), (next_x, next_y) in pairwise(curve):
        if min(x, next_x) <= change <= max(x, next_x):
            return y if next_x == x else y + (next_y - y) * (change - x) / (next_x - x)
    return None
