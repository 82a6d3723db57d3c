"""Confidence intervals of token-weighted means by a bootstrap over documents.

The statistic is sum(values) / number of tokens. Documents are resampled, because the tokens of one document are not
independent. The interval is the studentised (bootstrap-t) interval of a ratio: Efron & Tibshirani 1993, ch. 12.5, with
the linearised standard error of a ratio (Cochran 1977, eq. 6.13). Its tails are expanded as Student's t is wider than
the normal distribution (Hesterberg 2015, doi 10.1080/00031305.2015.1089789).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from peftodyssey.stats.t_distribution import t_quantile

LEVEL = 0.95
MIN_DOCUMENTS = 30
N_RESAMPLES = 2000
_CHUNK = 1 << 22  # resampled documents that are drawn at once: limits the memory


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `lower` and `upper` are None where there is none, and `note` says why."""

    estimate: float
    lower: float | None
    upper: float | None
    n_documents: int
    note: str = ""

    def columns(self, name: str) -> dict[str, float | None]:
        """The columns of a table that `store.columns.interval` declares: the estimate, and both ends."""
        return {name: self.estimate, **self.ends(name)}

    def ends(self, name: str) -> dict[str, float | None]:
        """The columns of both ends."""
        return {f"{name}_lo": self.lower, f"{name}_hi": self.upper}


def paired_bootstrap(delta_nats: np.ndarray, document: np.ndarray, **options: Any) -> Interval:
    """Mean difference per token of two columns, nats, with its interval over documents.

    `delta_nats` float64 [n] is after - before of each token; NaN where a token is not scored, which leaves it out.
    `document` int [n]. The options are those of `ratio_interval`.
    """
    return ratio_interval(*document_sums(delta_nats, document), **options)


def ratio_interval(
    sums: np.ndarray,
    weights: np.ndarray,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    min_documents: int = MIN_DOCUMENTS,
) -> Interval:
    """sum(sums) / sum(weights) with its interval; both float64 [documents], `weights` the tokens of each document.

    There is no interval under `min_documents` documents or effective documents. The same seed gives the same bits.
    """
    n = len(weights)
    if not n:
        return Interval(float("nan"), None, None, 0, "no tokens scored")
    estimate = float(sums.sum() / weights.sum())
    if note := too_few(weights, min_documents):
        return Interval(estimate, None, None, n, note)
    lower, upper = _studentised(sums[:, None], weights, np.random.default_rng(seed), n_resamples)
    return Interval(estimate, float(lower[0]), float(upper[0]), n)


def document_sums(values: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values that are not NaN, and their number, of each document in ascending order; float64 both."""
    scored = ~np.isnan(values)
    _, inverse = np.unique(np.asarray(document)[scored], return_inverse=True)
    return np.bincount(inverse, np.asarray(values, np.float64)[scored]), np.bincount(inverse).astype(np.float64)


def effective_documents(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: the number of equally long documents that would be as informative (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def too_few(weights: np.ndarray, min_documents: int = MIN_DOCUMENTS) -> str:
    """A note that there are too few documents for an interval, or an empty string."""
    n, effective = len(weights), effective_documents(weights)
    if n < min_documents:
        return f"too few documents ({n})"
    # The sum of squares rounds: n equal documents are n effective ones.
    return f"too few documents ({effective:.1f} effective of {n})" if effective < min_documents - 1e-9 else ""


def group_intervals(
    delta_nats: np.ndarray, document: np.ndarray, group: np.ndarray, n_groups: int, *, seed: int = 0
) -> list[Interval]:
    """What each group of tokens adds to the mean difference, nats per token of the whole text, with its interval.

    `group` int [n] in 0..n_groups-1; the estimates add up to the mean difference. Each is that of `paired_bootstrap`
    with the difference set to 0 outside of the group; all groups see the same resamples. A group has no interval if it
    occurs in fewer than MIN_DOCUMENTS effective documents: most resamples would not contain it, and the studentised
    interval would be far too wide.
    """
    scored = ~np.isnan(delta_nats)
    _, inverse = np.unique(np.asarray(document)[scored], return_inverse=True)
    weights = np.bincount(inverse).astype(np.float64)
    n = len(weights)
    if not n:
        return [Interval(float("nan"), None, None, 0, "no tokens scored")] * n_groups
    bucket = inverse * n_groups + np.asarray(group, np.int64)[scored]
    sums = np.bincount(bucket, np.asarray(delta_nats, np.float64)[scored], n * n_groups).reshape(n, n_groups)
    estimates = sums.sum(0) / weights.sum()
    if note := too_few(weights):
        return [Interval(float(estimate), None, None, n, note) for estimate in estimates]
    lower, upper = _studentised(sums, weights, np.random.default_rng(seed), N_RESAMPLES)
    tokens = np.bincount(bucket, minlength=n * n_groups).reshape(n, n_groups)
    notes = [too_few(column[column > 0]) if column.any() else "no tokens scored" for column in tokens.T]
    return [
        Interval(float(estimates[g]), None if note else float(lower[g]), None if note else float(upper[g]), n, note)
        for g, note in enumerate(notes)
    ]


def corrected_alpha(alpha: float, weights: np.ndarray) -> float:
    """The nominal tail probability, made smaller so that intervals from few documents have their nominal coverage.

    Resampled documents vary less than documents do, by (n - 1) / n, and have lighter tails than Student's t. Here n is
    the effective number of documents.
    """
    n = max(2, int(effective_documents(weights) + 1e-9))
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(1 - alpha, n - 1))


def _studentised(
    sums_ng: np.ndarray, weights: np.ndarray, rng: np.random.Generator, n_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends [g] of the intervals of g ratios over the same weights, from the same resamples."""
    estimates = sums_ng.sum(0) / weights.sum()
    w = weights[:, None]
    centred = sums_ng - estimates * w  # moments about the estimates avoid cancellation
    moments = np.concatenate([centred, w, centred**2, centred * w, w**2], 1)
    t = np.concatenate([_t_values(chunk) for chunk in _resampled_sums(rng, moments, n_resamples)])
    error = np.sqrt(np.square(centred).sum(0)) / weights.sum()
    alpha = corrected_alpha((1 - LEVEL) / 2, weights)
    q_lower, q_upper = np.quantile(t, [alpha, 1 - alpha], axis=0)
    return estimates - q_upper * error, estimates - q_lower * error


def _resampled_sums(rng: np.random.Generator, moments: np.ndarray, n_resamples: int) -> Iterator[np.ndarray]:
    """Sums of `moments` [n, k] over documents drawn with replacement, as chunks [resamples, k]."""
    n = len(moments)
    step = max(_CHUNK // n, 1)
    for first in range(0, n_resamples, step):
        rows = min(step, n_resamples - first)
        resampled = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(resampled.ravel(), minlength=rows * n).reshape(rows, n) @ moments


def _t_values(sums: np.ndarray) -> np.ndarray:
    """(ratio* - ratio) / its linearised standard error, [resamples, g], from summed moments [resamples, 3 g + 2]."""
    g = (sums.shape[1] - 2) // 3
    s, w, ss, sw, ww = np.split(sums, [g, g + 1, 2 * g + 1, 3 * g + 1], axis=1)
    shift = s / w
    variance = np.maximum(ss - 2 * shift * sw + shift**2 * ww, 0)
    error = np.sqrt(variance) / w
    return np.divide(shift, error, out=np.zeros_like(shift), where=error > 0)
