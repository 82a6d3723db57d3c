"""Correlation of two columns with its interval and p-value, over all points and within groups. Called by the report.

Intervals are those of Fisher's z: variance 1/(n-3) for Pearson's r, (1 + r^2/2)/(n-3) for Spearman's (Bonett and Wright
2000); within groups n is lowered by the number of groups less one. p-values are of permutations, all of them where they
are few. With a handful of points neither says much, and the interval shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from statistics import NormalDist

import numpy as np

MIN_POINTS = 4  # points for an interval, one less for each group but the first
MAX_EXACT_PERMUTATIONS = 6_000  # permutations up to which all are tried: 7 points, or 5 and 4 in two groups
N_PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Correlation:
    """A coefficient, -1 to 1, over `learning_curves`; None where it or a part of it cannot be given."""

    r: float | None
    lower: float | None
    upper: float | None
    p_value: float | None  # two-sided
    n_points: int
    n_groups: int  # 1: pooled
    leave_one_out_lower: float | None  # the least and the most that leaving one point out gives
    leave_one_out_upper: float | None
    note: str = ""


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    kind: str,
    group: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Pearson's or Spearman's coefficient (`kind`), its interval and two-sided p.

    With `group`, each group's own mean is taken from both columns first (for Spearman from the ranks over all points of
    such groups), so that only differences within groups count; a group of one point says nothing and is left out.
    """
    assert kind in ("pearson", "spearman"), kind
    a, b = (np.asarray(column, np.float64) for column in (x, y))
    label = _labels(np.zeros(len(a)) if group is None else np.asarray(group))
    if group is not None and len(a):
        kept = np.bincount(label)[label] > 1
        a, b, label = a[kept], b[kept], _labels(label[kept])
    n, groups = len(a), max(1, len(np.unique(label)))
    r = _coefficient(a, b, kind, label)
    if n - groups + 1 < MIN_POINTS or r is None:
        note = f"too few points ({n})" if n - groups + 1 < MIN_POINTS else "one of the two does not vary"
        return Correlation(r, None, None, None, n, groups, None, None, note)
    others = (
        _coefficient(*(np.delete(column, i) for column in (a, b)), kind, _labels(np.delete(label, i))) for i in range(n)
    )
    left_out = [value for value in others if value is not None]
    lo, hi = _interval(r, kind, n - groups + 1, level)
    ends = min(left_out, default=None), max(left_out, default=None)
    return Correlation(r, lo, hi, _p(_centred(a, kind, label), _centred(b, kind, label), label, seed), n, groups, *ends)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def centred(values: Sequence[float], group: Sequence[str]) -> np.ndarray:
    """The values less their group's mean, float64 [points]."""
    return _centred(np.asarray(values, np.float64), "pearson", _labels(np.asarray(group)))


def holm_adjusted(p: Sequence[float | None]) -> list[float | None]:
    """p-values held against their family (Holm 1979): the k-th smallest of m times m - k + 1, never falling, at most 1.

    None stays None and is not of the family.
    """
    given = sorted((value, place) for place, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, place) in enumerate(given):
        highest = max(highest, min(1.0, value * (len(given) - rank)))
        found[place] = highest
    return found


def _labels(group: np.ndarray) -> np.ndarray:
    return np.unique(group, return_inverse=True)[1]


def _centred(values: np.ndarray, kind: str, label: np.ndarray) -> np.ndarray:
    """Values, or their ranks, less the mean of their group; exactly 0 where that is rounding alone."""
    used = ranks(values) if kind == "spearman" else values
    found = used - (np.bincount(label, used) / np.bincount(label))[label]
    return np.where(np.abs(found) > 1e-13 * np.abs(used).max(initial=0), found, 0.0)


def _coefficient(a: np.ndarray, b: np.ndarray, kind: str, label: np.ndarray) -> float | None:
    x, y = (_centred(column, kind, label) for column in (a, b))
    size = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(np.clip((x @ y) / size, -1, 1)) if size > 0 else None


def _interval(r: float, kind: str, points: int, level: float) -> tuple[float, float]:
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    variance = (1 + (r**2 / 2 if kind == "spearman" else 0)) / (points - 3)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return math.tanh(z - reach), math.tanh(z + reach)


def _p(x: np.ndarray, y: np.ndarray, label: np.ndarray, seed: int) -> float:
    """Share of the orders of `y` within its groups that give as large a product, either way; centred columns."""
    observed, rounding = abs(float(x @ y)), 1e-12 * float(np.abs(x) @ np.abs(y))
    if math.prod(math.factorial(size) for size in np.bincount(label).tolist()) <= MAX_EXACT_PERMUTATIONS:
        return float(np.mean(np.abs(y[_all_orders(label)] @ x) >= observed - rounding))
    drawn = _shuffled(label, N_PERMUTATIONS, np.random.default_rng(seed))
    return (1 + int((np.abs(y[drawn] @ x) >= observed - rounding).sum())) / (1 + N_PERMUTATIONS)


def _all_orders(label: np.ndarray) -> np.ndarray:
    """Every order of the points that leaves each in its group, int [ways, points]."""
    members = [np.flatnonzero(label == group) for group in np.unique(label)]
    ways = np.array([np.concatenate(way) for way in product(*(list(permutations(places)) for places in members))])
    found = np.empty_like(ways)
    found[:, np.concatenate(members)] = ways
    return found


def _shuffled(label: np.ndarray, ways: int, rng: np.random.Generator) -> np.ndarray:
    """Random ones of them."""
    found = np.empty((ways, len(label)), int)
    found[:, np.argsort(label, kind="stable")] = np.argsort(label + rng.random((ways, len(label))), axis=1)
    return found
