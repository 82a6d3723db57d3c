"""The noise between seeds: how far runs that differ in nothing else lie apart. Called by `measure.ranks` and the
report.

Runs of one setting (text, base, method, learning rate) that differ in their seed make a group. Seeds are few, so they
are never resampled: their variance is pooled over groups and stated with its degrees of freedom.
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
    degrees_of_freedom: int  # degrees of freedom: values minus groups, over the groups that have two values or more
    n_groups: int  # groups that have two values or more


def noise_floor(groups: Sequence[Sequence[float]]) -> NoiseFloor:
    """The root of the variance within groups, each weighing its degrees of freedom (the pooled variance of an ANOVA)."""
    seeded = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in seeded)
    if not freedom:
        return NoiseFloor(None, 0, 0)
    means = [math.fsum(group) / len(group) for group in seeded]
    squares = math.fsum((value - mean) ** 2 for group, mean in zip(seeded, means, strict=True) for value in group)
    return NoiseFloor(math.sqrt(squares / freedom), freedom, len(seeded))


def least_significant_difference(floor: NoiseFloor, seeds: int, other_seeds: int, level: float = 0.95) -> float | None:
    """The smallest difference of two means over seeds that this noise does not explain at `level`; None: not measured.

    t(freedom) * deviation * sqrt(1/n + 1/m): the half width of the two-sample interval with pooled variance.
    """
    if floor.std is None:
        return None
    quantile = t_quantile((1 + level) / 2, floor.degrees_of_freedom)
    return quantile * floor.std * math.sqrt(1 / seeds + 1 / other_seeds)
