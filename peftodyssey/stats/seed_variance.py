"""The noise between seeds: the variance of runs that differ in nothing but their seed.

Runs of one setting (text, base, method, learning rate) form a group. Seeds are few, so they are never resampled: their
variance is pooled over groups and stated with its degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.stats.t_distribution import t_quantile


@dataclass(frozen=True)
class NoiseFloor:
    """Pooled standard deviation between seeds, in the unit of the values; None where no group has two seeds."""

    std: float | None
    degrees_of_freedom: int  # values minus groups, over the groups with at least two values
    n_groups: int  # with at least two values


def noise_floor(groups: Sequence[Sequence[float]]) -> NoiseFloor:
    """The root of the variance within groups, weighted by degrees of freedom (the pooled variance of an ANOVA)."""
    seeded = [group for group in groups if len(group) > 1]
    degrees_of_freedom = sum(len(group) - 1 for group in seeded)
    if not degrees_of_freedom:
        return NoiseFloor(None, 0, 0)
    means = [math.fsum(group) / len(group) for group in seeded]
    squares = math.fsum((value - mean) ** 2 for group, mean in zip(seeded, means, strict=True) for value in group)
    return NoiseFloor(math.sqrt(squares / degrees_of_freedom), degrees_of_freedom, len(seeded))


def least_significant_difference(
    floor: NoiseFloor, n_seeds: int, n_other_seeds: int, level: float = 0.95
) -> float | None:
    """The smallest difference of two means over seeds that this noise does not explain at `level`; None: not measured.

    t(degrees of freedom) * std * sqrt(1/n + 1/m): the half-width of the two-sample interval with pooled variance.
    """
    if floor.std is None:
        return None
    quantile = t_quantile((1 + level) / 2, floor.degrees_of_freedom)
    return quantile * floor.std * math.sqrt(1 / n_seeds + 1 / n_other_seeds)
