"""The best learning rate between those that were tried: a parabola in log rate, with an interval and its curvature.

The parabola goes through the best rate and its two neighbours, whose distances need not be equal. Its derivative at a
given rate is a weighted sum of three losses, so it has an interval like every difference of losses: over clusters of
the validation text, which are resampled, and over seeds, by Student's t. The interval of the optimum holds the rates
at which the derivative is not clear of 0 (Fieller 1954); it is open where the curvature is not clear of 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from peftodyssey.stats.contrast import CLUSTERS, LEVEL, MIN_SEEDS, SEEDS_AND_CLUSTERS, Parts, half_width, parts
from peftodyssey.stats.pooled_variance import SeedVariance

MAX_LOG_DISTANCE = math.log(1e6)  # of an end from the optimum; beyond it the interval is open
FLAT = "the curvature is not clear of 0"


@dataclass(frozen=True)
class LrOptimum:
    """The vertex of the parabola: a rate, and what missing it by a factor of two costs, nats per token."""

    lr: float
    lr_lo: float | None  # ends of the 95 % interval; None where it is open
    lr_hi: float | None
    factor_two_cost: float
    factor_two_cost_lo: float | None
    factor_two_cost_hi: float | None
    covers: str  # what the intervals cover: clusters and seeds, or clusters; empty where there are none
    note: str = ""  # why an interval is open


class _Quadratic(NamedTuple):
    """Parts of slope + t * slope change as functions of t, the distance in log rate from the middle rate."""

    at_0: Parts
    change: Parts  # of the slope for each unit of log rate: twice the square's coefficient
    both: Parts  # of their sum

    def at(self, t: float) -> Parts:
        """The parts of the derivative at t; each variance is a parabola in t through those of the three."""

        def variance(name: str) -> float:
            first, second, both = (float(getattr(part, name)) for part in self)
            return max(first + t * (both - first - second) + t * t * second, 0.0)

        estimate, seeds = self.at_0.estimate + t * self.change.estimate, self.at_0.seeds
        over_clusters, over_seeds = variance("clusters_variance"), variance("seed_variance")
        return Parts(estimate, over_clusters, over_seeds, variance("interaction"), seeds, self.at_0.clusters)


def lr_optimum(rates: tuple[float, float, float], losses: np.ndarray, clusters: float, intervals: bool) -> LrOptimum:
    """The optimum of `losses`, float64 [1 + resamples, 3, seeds] at `rates`, ascending, of which the middle is best.

    Row 0 of `losses` is the text itself, nats per token. `clusters` is its effective number of clusters; without
    `intervals` there are too few.
    """
    slope_weights, square_weights = _weights(rates)
    slope, square = (np.einsum("nrs,r->ns", losses, weights) for weights in (slope_weights, square_weights))
    b, c = float(slope[0].mean()), float(square[0].mean())
    assert c > 0, "the middle rate is not better than both of its neighbours"
    lr, scale = rates[1] * math.exp(-b / (2 * c)), math.log(2) ** 2
    if not intervals:
        return LrOptimum(lr, None, None, c * scale, None, None, "")
    found = _Quadratic(*(parts(values, clusters) for values in (slope, 2 * square, slope + 2 * square)))
    half = _half(found.change) / 2
    covers = SEEDS_AND_CLUSTERS if found.at_0.seeds >= MIN_SEEDS else CLUSTERS
    cost = c * scale, (c - half) * scale, (c + half) * scale
    below, above = (_end(found, -b / (2 * c), sign) for sign in (-1, 1))
    if c <= half or below is None or above is None:
        return LrOptimum(lr, None, None, *cost, covers, FLAT)
    return LrOptimum(lr, rates[1] * math.exp(below), rates[1] * math.exp(above), *cost, covers)


def _weights(rates: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of three losses for slope and square of the parabola through them, around the middle log rate."""
    low, high = math.log(rates[0] / rates[1]), math.log(rates[2] / rates[1])
    width = high - low
    square = np.array([1 / (-low * width), 1 / (low * high), 1 / (high * width)])
    slope = np.array([high / (low * width), -(low + high) / (low * high), -low / (high * width)])
    return slope, square


def _half(one: Parts) -> float:
    seeds = SeedVariance(one.seed_variance, max(one.seed_variance - one.interaction, 0.0), one.seeds - 1, 1)
    return half_width(one, seeds if one.seeds >= MIN_SEEDS else None, LEVEL)[0]


def _end(found: _Quadratic, optimum: float, sign: int) -> float | None:
    """The end of the interval on one side, as a distance in log rate; None where the derivative is nowhere clear."""

    def is_clear(distance: float) -> bool:
        one = found.at(optimum + sign * distance)
        return abs(one.estimate) > _half(one)

    inside, outside = 0.0, 1e-3
    while not is_clear(outside):
        inside, outside = outside, 2 * outside
        if outside > MAX_LOG_DISTANCE:
            return None
    while outside - inside > 1e-6 * outside:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_clear(middle) else (middle, outside)
    return optimum + sign * outside
