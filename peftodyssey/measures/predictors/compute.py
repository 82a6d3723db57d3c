"""How well a number of some cells foretells another, leaving out one group of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.isotonic import isotonic

MIN_OTHERS = 4  # cells of other groups from which one group is foretold


@dataclass(frozen=True)
class Forecast:
    """One group foretold from the others, or, without a name, each in turn."""

    left_out: str | None
    cells: int
    skill: float
    rmse: float


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The rank correlation; None where one of the two does not vary. Ties share their mean rank."""
    a, b = (_ranks(np.asarray(values, np.float64)) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def forecasts(x: Sequence[float], y: Sequence[float], group: Sequence[str]) -> list[Forecast]:
    """Each group's `y` from its `x` by the monotone fit to the other groups; at the end, all groups together.

    The fit rises or falls as the others' rank correlation says. A group is left out of the forecasts where the others
    have fewer than 4 cells or do not vary.
    """
    a, b, groups = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(group)
    found: list[tuple[str, np.ndarray, np.ndarray]] = []  # group, squared errors, those of the mean
    for name in dict.fromkeys(group):
        own = groups == name
        if (~own).sum() < MIN_OTHERS or not (sign := spearman(a[~own], b[~own])):
            continue
        forecast = isotonic(np.sign(sign) * a[~own], b[~own], np.sign(sign) * a[own])
        found.append((name, (b[own] - forecast) ** 2, (b[own] - b[~own].mean()) ** 2))
    results = [_forecast(name, errors, of_mean) for name, errors, of_mean in found]
    if len(found) > 1:
        results.append(
            _forecast(None, np.concatenate([e for _, e, _ in found]), np.concatenate([m for *_, m in found]))
        )
    return results


def _forecast(name: str | None, errors: np.ndarray, of_mean: np.ndarray) -> Forecast:
    skill = 1 - errors.sum() / of_mean.sum() if of_mean.sum() > 0 else float("nan")
    return Forecast(name, len(errors), float(skill), float(np.sqrt(errors.mean())))
