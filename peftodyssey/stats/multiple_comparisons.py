"""Multiple comparisons with the best (Hsu 1996, ch. 4): how much worse each treatment is than the best of the others.

The design is randomised blocks: every treatment is measured with every seed. The residual mean square has
(treatments - 1)(seeds - 1) degrees of freedom, and the quantile is Dunnett's one-sided one. Where the treatments vary
unlike over seeds, each pair has the variance of its own differences with seeds - 1 degrees of freedom, and Student's
quantile at the error divided by the number of other treatments (Bonferroni).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.pooled_variance import are_alike
from peftodyssey.stats.t_distribution import t_quantile

ERROR = 0.05
_NODES = 200  # of each integral of the quantile


@dataclass(frozen=True)
class LossToBest:
    """One treatment less the best of the others, in the unit of the values; lower values are better.

    With 95 % all true differences lie between `lower` (at most 0) and `upper` (at least 0), together. A `lower` of 0
    says that the treatment is not the best, an `upper` of 0 that it is.
    """

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Comparison:
    """All treatments, in order."""

    losses: tuple[LossToBest, ...]
    degrees_of_freedom: int
    pooled: bool  # the treatments vary alike over seeds


def compared_with_best(values_ts: np.ndarray) -> Comparison:
    """The comparison of float64 [treatments, seeds], at least two of each; column s is one seed for all treatments."""
    k, r = values_ts.shape
    assert k > 1, values_ts.shape
    assert r > 1, values_ts.shape
    means = values_ts.mean(1)
    residuals = values_ts - means[:, None] - values_ts.mean(0) + values_ts.mean()
    own = np.square(residuals).sum(1) / ((r - 1) * (1 - 1 / k))
    pooled = k == 2 or are_alike(list(own), [r - 1] * k)
    if pooled:
        degrees = (k - 1) * (r - 1)
        width = dunnett_quantile(k - 1, degrees) * math.sqrt(2 * np.square(residuals).sum() / degrees / r)
        widths = np.full((k, k), width)
    else:
        degrees = r - 1
        spread = (values_ts[:, None] - values_ts[None]).std(axis=2, ddof=1) / math.sqrt(r)
        widths = t_quantile(1 - ERROR / (k - 1), degrees) * spread
    return Comparison(_losses(means, widths), degrees, pooled)


def _losses(means: np.ndarray, widths: np.ndarray) -> tuple[LossToBest, ...]:
    """Hsu's constrained bounds from the differences of each treatment with every other one."""
    differences = means[:, None] - means
    np.fill_diagonal(differences, -np.inf)
    ends = (differences + sign * widths for sign in (0, -1, 1))
    estimates, lower, upper = (end.max(1) for end in ends)
    return tuple(
        LossToBest(float(estimate), float(min(low, 0.0)), float(max(high, 0.0)))
        for estimate, low, high in zip(estimates, lower, upper, strict=True)
    )


@functools.lru_cache(maxsize=64)
def dunnett_quantile(comparisons: int, degrees_of_freedom: int, error: float = ERROR) -> float:
    """The one-sided quantile d of the largest of `comparisons` t statistics against one control, equal group sizes.

    P(Z_i - Z_0 <= sqrt(2) d S for all i) = 1 - error with independent normal Z and S^2 chi-square over its degrees of
    freedom (Dunnett 1955). Given Z_0 and S the events are independent: what is left is a power of the normal
    distribution, integrated over Z_0 and S. By bisection.
    """
    assert comparisons >= 1, comparisons
    z = np.linspace(-8, 8, _NODES)
    normal = np.exp(-(z**2) / 2)
    log_s = np.linspace(-12 / math.sqrt(degrees_of_freedom) - 3, 12 / math.sqrt(degrees_of_freedom), _NODES)
    s = np.exp(log_s)
    log_density = degrees_of_freedom * (log_s - s**2 / 2)  # of log S, without its constant
    weights = np.exp(log_density - log_density.max())[:, None] * normal
    weights /= weights.sum()

    def covered(d: float) -> float:
        return float((weights * _normal_cdf(z + math.sqrt(2) * d * s[:, None]) ** comparisons).sum())

    lower, upper = 0.0, 1.0
    while covered(upper) < 1 - error:
        lower, upper = upper, 2 * upper
    while upper - lower > 1e-9 * upper:
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if covered(middle) < 1 - error else (lower, middle)
    return (lower + upper) / 2


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    """The normal distribution by a table of math.erf, linear between its nodes: 1e-7."""
    return np.interp(x, *_normal_table())


@functools.cache
def _normal_table() -> tuple[np.ndarray, np.ndarray]:
    nodes = np.linspace(-9, 9, 20001)
    return nodes, np.array([0.5 * math.erfc(-node / math.sqrt(2)) for node in nodes])
