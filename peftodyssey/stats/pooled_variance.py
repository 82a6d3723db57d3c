"""The variance over seeds of several settings: pooled where they are alike, else each setting's own.

Alike: Bartlett's (1937) statistic of equal variances is not in the upper quarter of its distribution under equality,
which is drawn (the degrees of freedom are too few for its chi-square limit). A quarter, because what is pooled wrongly
makes an interval too short, and what is not pooled only makes it longer (Bancroft 1964).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALIKE_LEVEL = 0.25
N_DRAWS = 4000


@dataclass(frozen=True)
class SeedVariance:
    """The variance of one seed's value, nats per token squared."""

    variance: float
    without_interaction: float  # the variance less the part that resampled clusters account for; at least 0
    degrees_of_freedom: int
    settings: int  # that were pooled; 1: the setting's own


def pooled_variance(
    variances: Sequence[float], interactions: Sequence[float], degrees: Sequence[int]
) -> list[SeedVariance]:
    """One for each setting, in order: the same for all where the settings are alike."""
    own = [
        SeedVariance(variance, max(variance - interaction, 0.0), df, 1)
        for variance, interaction, df in zip(variances, interactions, degrees, strict=True)
    ]
    if len(own) < 2 or not are_alike(variances, degrees):
        return own
    return [average_variance(variances, interactions, degrees)] * len(own)


def average_variance(variances: Sequence[float], interactions: Sequence[float], degrees: Sequence[int]) -> SeedVariance:
    """The variance over seeds of all settings together, weighted by their degrees of freedom."""
    variance, interaction = (float(np.average(values, weights=degrees)) for values in (variances, interactions))
    return SeedVariance(variance, max(variance - interaction, 0.0), sum(degrees), len(variances))


def are_alike(variances: Sequence[float], degrees: Sequence[int]) -> bool:
    """Whether equal variances would differ as much with probability above ALIKE_LEVEL."""
    values = np.asarray(variances, np.float64)
    if not (values > 0).all():
        return bool((values == values[0]).all())
    statistic = _bartlett(values[None], np.asarray(degrees, np.float64))[0]
    return bool(np.mean(_null(tuple(degrees)) >= statistic) > ALIKE_LEVEL)


@functools.lru_cache(maxsize=64)
def _null(degrees: tuple[int, ...]) -> np.ndarray:
    df = np.array(degrees, np.float64)
    return _bartlett(np.random.default_rng(0).chisquare(df, (N_DRAWS, len(df))) / df, df)


def _bartlett(variances_ns: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Bartlett's statistic, without its scale, of variances [n, settings]; 0 where they are equal."""
    pooled = variances_ns @ degrees / degrees.sum()
    return np.asarray(degrees.sum() * np.log(pooled) - np.log(variances_ns) @ degrees)
