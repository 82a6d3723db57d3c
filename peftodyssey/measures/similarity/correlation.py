"""Correlation of two columns with its interval and p-value, over all points or within groups.

Intervals use Fisher's z with variance 1/(n-3) for Pearson's r and (1 + r^2/2)/(n-3) for Spearman's (Bonett and Wright
2000); within groups n is reduced by the number of groups less one. p-values are from permutations, exact where there
are few of them. With a handful of points neither says much, and the interval shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
MIN_POINTS = 4  # for an interval; one more for each group but the first
MAX_EXACT_PERMUTATIONS = 6_000  # 7 points, or 5 and 4 in two groups
N_PERMUTATIONS = 9_999
SEED = 0


@dataclass(frozen=True)
class Correlation:
    """A coefficient, -1 to 1, over `n_points`; None where it or a part of it cannot be computed."""

    r: float | None
    lower: float | None
    upper: float | None
    p_value: float | None  # two-sided
    n_points: int
    n_groups: int  # 1: pooled
    leave_one_out_lower: float | None  # range of r when any one point is left out
    leave_one_out_upper: float | None
    note: str = ""


def correlation(
    x: Sequence[float], y: Sequence[float], statistic: str, group: Sequence[str] | None = None
) -> Correlation:
    """Pearson's or Spearman's coefficient (`statistic`: pearson | spearman), its interval and two-sided p-value.

    With `group`, each group's mean is subtracted from both columns first (for Spearman from the ranks over all points),
    so that only differences within groups count. Groups of one point are left out.
    """
    assert statistic in ("pearson", "spearman"), statistic
    a, b = (np.asarray(column, np.float64) for column in (x, y))
    label = _group_numbers(np.zeros(len(a)) if group is None else np.asarray(group))
    if group is not None and len(a):
        several = np.bincount(label)[label] > 1
        a, b, label = a[several], b[several], _group_numbers(label[several])
    n, n_groups = len(a), max(1, len(np.unique(label)))
    r = _coefficient(a, b, statistic, label)
    effective = n - n_groups + 1
    if effective < MIN_POINTS or r is None:
        note = f"too few points ({n})" if effective < MIN_POINTS else "one of the two does not vary"
        return Correlation(r, None, None, None, n, n_groups, None, None, note)
    leave_one_out = (
        _coefficient(np.delete(a, i), np.delete(b, i), statistic, _group_numbers(np.delete(label, i))) for i in range(n)
    )
    others = [value for value in leave_one_out if value is not None]
    lower, upper = _interval(r, statistic, effective)
    p_value = _p_value(_centred(a, statistic, label), _centred(b, statistic, label), label)
    return Correlation(r, lower, upper, p_value, n, n_groups, min(others, default=None), max(others, default=None))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]


def centred(values: Sequence[float] | np.ndarray, group: Sequence[str]) -> np.ndarray:
    """The values less their group's mean, float64 [points]."""
    return _centred(np.asarray(values, np.float64), "pearson", _group_numbers(np.asarray(group)))


def holm_adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (1979): the k-th smallest of m times m - k + 1, never decreasing, at most 1.

    None stays None and does not count towards m.
    """
    ascending = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, index) in enumerate(ascending):
        highest = max(highest, min(1.0, value * (len(ascending) - rank)))
        adjusted[index] = highest
    return adjusted


def _group_numbers(group: np.ndarray) -> np.ndarray:
    return np.unique(group, return_inverse=True)[1]


def _centred(values: np.ndarray, statistic: str, label: np.ndarray) -> np.ndarray:
    """Values, or their ranks, less the mean of their group; exactly 0 where only rounding remains."""
    used = ranks(values) if statistic == "spearman" else values
    difference = used - (np.bincount(label, used) / np.bincount(label))[label]
    return np.where(np.abs(difference) > 1e-13 * np.abs(used).max(initial=0), difference, 0.0)


def _coefficient(a: np.ndarray, b: np.ndarray, statistic: str, label: np.ndarray) -> float | None:
    x, y = (_centred(column, statistic, label) for column in (a, b))
    size = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(np.clip((x @ y) / size, -1, 1)) if size > 0 else None


def _interval(r: float, statistic: str, n_points: int) -> tuple[float, float]:
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    variance = (1 + (r**2 / 2 if statistic == "spearman" else 0)) / (n_points - 3)
    half_width = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance)
    return math.tanh(z - half_width), math.tanh(z + half_width)


def _p_value(x: np.ndarray, y: np.ndarray, label: np.ndarray) -> float:
    """Share of the permutations of `y` within groups with at least as large an absolute product; centred columns."""
    observed, rounding = abs(float(x @ y)), 1e-12 * float(np.abs(x) @ np.abs(y))
    if math.prod(math.factorial(size) for size in np.bincount(label).tolist()) <= MAX_EXACT_PERMUTATIONS:
        return float(np.mean(np.abs(y[_all_permutations(label)] @ x) >= observed - rounding))
    permuted = _random_permutations(label, N_PERMUTATIONS, np.random.default_rng(SEED))
    return (1 + int((np.abs(y[permuted] @ x) >= observed - rounding).sum())) / (1 + N_PERMUTATIONS)


def _all_permutations(label: np.ndarray) -> np.ndarray:
    """Every permutation of the points that leaves each in its group, int [permutations, points]."""
    members = [np.flatnonzero(label == group) for group in np.unique(label)]
    orders = np.array([np.concatenate(order) for order in product(*(list(permutations(m)) for m in members))])
    result = np.empty_like(orders)
    result[:, np.concatenate(members)] = orders
    return result


def _random_permutations(label: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    result = np.empty((n, len(label)), int)
    result[:, np.argsort(label, kind="stable")] = np.argsort(label + rng.random((n, len(label))), axis=1)
    return result
