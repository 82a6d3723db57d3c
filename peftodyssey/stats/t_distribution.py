"""Quantiles of Student's t distribution without SciPy."""

from __future__ import annotations

import functools
import math

MAX_DEGREES_OF_FREEDOM = 500  # beyond, the quantile changes by less than 0.3 %


@functools.cache
def t_quantile(p: float, degrees_of_freedom: int) -> float:
    """The quantile of Student's t for 0.5 < p < 1, by bisection of its distribution function, to 1e-12 relative."""
    assert 0.5 < p < 1, p
    assert degrees_of_freedom >= 1, degrees_of_freedom
    lower, upper = 0.0, 1.0
    while _central_probability(upper, degrees_of_freedom) < 2 * p - 1:
        lower, upper = upper, 2 * upper
    while upper - lower > 1e-12 * upper:
        middle = (lower + upper) / 2
        too_low = _central_probability(middle, degrees_of_freedom) < 2 * p - 1
        lower, upper = (middle, upper) if too_low else (lower, middle)
    return (lower + upper) / 2


def t_quantile_real(p: float, degrees_of_freedom: float) -> float:
    """The quantile at degrees of freedom from 1 that need not be whole: at p = 0.975 within 0.5 %, below 2 within 3 %.

    Between the whole numbers its logarithm is interpolated linearly in 1 / degrees of freedom.
    """
    df = min(degrees_of_freedom, MAX_DEGREES_OF_FREEDOM)
    below = int(df)
    if below == df:
        return t_quantile(p, below)
    share = (1 / below - 1 / df) * below * (below + 1)
    lower, upper = t_quantile(p, below), t_quantile(p, below + 1)
    return math.exp((1 - share) * math.log(lower) + share * math.log(upper))


def _central_probability(t: float, degrees_of_freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    squared = math.cos(angle) ** 2
    if degrees_of_freedom == 1:
        return 2 * angle / math.pi
    odd = degrees_of_freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 if odd else 1, degrees_of_freedom - 2, 2):
        term *= squared * k / (k + 1)
        total += term
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
