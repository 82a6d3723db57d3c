"""The mean of one number over seeds, with its interval over documents and seeds together.

Each seed has an estimate with an interval over documents, of the same documents. The interval of the mean is as wide as
theirs on average, which holds however strongly they are correlated. The spread between seeds is added in square, by
Student's t with one degree of freedom less than seeds (12.7 for two seeds). It contains what documents and seeds do
together a second time, so the interval is too long rather than too short. Seeds are never resampled, and more of them
make the interval shorter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.stats.bootstrap import LEVEL
from peftodyssey.stats.t_distribution import t_quantile

DOCUMENTS, DOCUMENTS_AND_SEEDS = "documents", "documents and seeds"


@dataclass(frozen=True)
class SeedsMean:
    """A mean over seeds with its 95 % interval; None where a seed has no interval over documents."""

    estimate: float
    lower: float | None
    upper: float | None
    covers: str  # what the interval covers


def mean_over_seeds(
    estimates: Sequence[float], lowers: Sequence[float | None], uppers: Sequence[float | None]
) -> SeedsMean:
    """The mean of `estimates`, one for each seed, whose intervals over documents are `lowers` to `uppers`."""
    n, mean = len(estimates), statistics.fmean(estimates)
    covers = DOCUMENTS_AND_SEEDS if n > 1 else DOCUMENTS
    known = [(low, high) for low, high in zip(lowers, uppers, strict=True) if low is not None and high is not None]
    if len(known) < n:
        return SeedsMean(mean, None, None, covers)
    below, above = (mean - statistics.fmean(low for low, _ in known), statistics.fmean(h for _, h in known) - mean)
    between = 0.0
    if n > 1:
        between = t_quantile((1 + LEVEL) / 2, n - 1) * statistics.stdev(estimates) / math.sqrt(n)
    return SeedsMean(mean, mean - math.hypot(below, between), mean + math.hypot(above, between), covers)
