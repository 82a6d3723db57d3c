"""Quantiles of Student's t without SciPy. Called by `measure.stats` and `measure.seeds`."""

from __future__ import annotations

import functools
import math


@functools.cache
def t_quantile(p: float, freedom: int) -> float:
    """The quantile of Student's t for 0.5 < p < 1, by bisection of its distribution function, to 1e-12 relative."""
    assert 0.5 < p < 1, p
    assert freedom >= 1, freedom
    lo, hi = 0.0, 1.0
    while _t_within(hi, freedom) < 2 * p - 1:
        lo, hi = hi, 2 * hi
    while hi - lo > 1e-12 * hi:
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if _t_within(middle, freedom) < 2 * p - 1 else (lo, middle)
    return (lo + hi) / 2


def _t_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    squared = math.cos(angle) ** 2
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 if odd else 1, freedom - 2, 2):
        term *= squared * k / (k + 1)
        total += term
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
