"""Intervals of token-weighted means by a bootstrap over documents. Called by `measure.degradation` and the report.

The statistic is sum(values) / number of tokens; the unit that is drawn is the document, because tokens of one document
are not independent. Default: the studentised (bootstrap-t) interval of the ratio, Efron & Tibshirani 1993 ch. 12.5 with
the linearised standard error of a ratio (Cochran 1977 eq. 6.13), its tails expanded as Student's t is wider than the
normal (Hesterberg 2015, doi 10.1080/00031305.2015.1089789); "bca" (Efron & Tibshirani ch. 14.3) and "percentile" beside
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from peftodyssey.stats.t_distribution import t_quantile

MIN_DOCUMENTS = 30
BLOCK_TOKENS = 2000
_CHUNK = 1 << 22  # resampled documents drawn at once: bounds the memory


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `lo` and `hi` are None where none can be given, and `note` says why."""

    estimate: float
    lower: float | None
    upper: float | None
    n_documents: int
    note: str = ""


def paired_bootstrap(delta_nats: np.ndarray, document: np.ndarray, **options: Any) -> Interval:
    """Mean per-token difference of two columns, nats, with the interval from resampled documents.

    `delta_nats` float64[n] after - before of the same token; rows that are NaN are not scored and dropped. `document`
    int[n]. The options are those of `ratio_interval`.
    """
    return ratio_interval(*document_sums(delta_nats, document), **options)


def ratio_interval(
    sums: np.ndarray,
    weights: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    min_documents: int = MIN_DOCUMENTS,
    method: str = "studentised",
) -> Interval:
    """sum(sums) / sum(weights) with its interval; float64[documents] both, `weights` the tokens of each document.

    No interval under `min_documents` documents or effective documents, (sum w)^2 / sum w^2. The same seed gives the
    same bits. `method`: studentised | bca | percentile.
    """
    n = len(weights)
    if not n:
        return Interval(float("nan"), None, None, 0, "no tokens scored")
    estimate = float(sums.sum() / weights.sum())
    if note := too_few(weights, min_documents):
        return Interval(estimate, None, None, n, note)
    lo, hi = _METHODS[method](sums, weights, np.random.default_rng(seed), resamples, (1 - level) / 2)
    return Interval(estimate, lo, hi, n)


def interval(values: np.ndarray, document: np.ndarray | None = None, **options: Any) -> Interval:
    """Mean of one column with its interval, as `paired_bootstrap` does; without documents each value is its own unit."""
    ids = np.arange(len(values)) if document is None else document
    return paired_bootstrap(values, ids, **options)


def document_sums(values: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per document, in ascending order of its number: float64 sum of the values that are not NaN, and their count."""
    kept = ~np.isnan(values)
    _, inverse = np.unique(np.asarray(document)[kept], return_inverse=True)
    return np.bincount(inverse, np.asarray(values, np.float64)[kept]), np.bincount(inverse).astype(np.float64)


def effective_documents(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: as many equally long documents as would average as well (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def too_few(weights: np.ndarray, min_documents: int = MIN_DOCUMENTS) -> str:
    """A note that there are too few documents for an interval, or an empty string."""
    n, effective = len(weights), effective_documents(weights)
    if n < min_documents:
        return f"too few documents ({n})"
    # The sum of squares rounds: n equal documents are n effective ones.
    return f"too few documents ({effective:.1f} effective of {n})" if effective < min_documents - 1e-9 else ""


def block_ids(n_rows: int, block_tokens: int = BLOCK_TOKENS) -> np.ndarray:
    """Stand-in documents for a text without any: consecutive blocks of at least `block_tokens` rows, int64[n_rows]."""
    return np.minimum(np.arange(n_rows) // block_tokens, max(n_rows // block_tokens - 1, 0))


def _resampled(rng: np.random.Generator, moments: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """Sums of `moments` [n, k] over documents drawn with replacement, as [chunk, k] until `resamples` rows came."""
    n = len(moments)
    step = max(_CHUNK // n, 1)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ moments


def _ratios(sums: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    drawn = np.concatenate(list(_resampled(rng, np.stack([sums, weights], 1), resamples)))
    return drawn[:, 0] / drawn[:, 1]


def _percentile(
    sums: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> tuple[float, float]:
    lo, hi = np.quantile(_ratios(sums, weights, rng, resamples), [tail, 1 - tail])
    return float(lo), float(hi)


def _bca(
    sums: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> tuple[float, float]:
    drawn, normal = _ratios(sums, weights, rng, resamples), NormalDist()
    estimate = sums.sum() / weights.sum()
    below = (np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2
    if not 0 < below < 1:  # no spread: every resample is the estimate or on one side of it
        return float(drawn.min()), float(drawn.max())
    left_out = (sums.sum() - sums) / (weights.sum() - weights)
    pull = left_out.mean() - left_out
    spread = np.square(pull).sum()
    bias, acceleration = normal.inv_cdf(float(below)), (pull**3).sum() / (6 * spread**1.5) if spread else 0.0
    shifted = [bias + z for z in (normal.inv_cdf(tail), normal.inv_cdf(1 - tail))]
    lo, hi = np.quantile(drawn, [normal.cdf(float(bias + z / (1 - acceleration * z))) for z in shifted])
    return float(lo), float(hi)


def group_intervals(
    delta_nats: np.ndarray,
    document: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    min_documents: int = MIN_DOCUMENTS,
) -> list[Interval]:
    """What each group of tokens adds to the mean difference, nats per token of the whole text, with its interval.

    `group` int[n] in 0..n_groups-1; the estimates add up to the mean difference. Each is that of `paired_bootstrap`
    with the difference set to 0 outside of the group; all groups see the same resamples. A group that lies in fewer
    than `min_documents` effective documents has no interval: most resamples would miss it, and the studentised one
    explodes.
    """
    kept = ~np.isnan(delta_nats)
    _, inverse = np.unique(np.asarray(document)[kept], return_inverse=True)
    weights = np.bincount(inverse).astype(np.float64)
    n = len(weights)
    if not n:
        return [Interval(float("nan"), None, None, 0, "no tokens scored")] * n_groups
    place = inverse * n_groups + np.asarray(group, np.int64)[kept]
    sums = np.bincount(place, np.asarray(delta_nats, np.float64)[kept], n * n_groups).reshape(n, n_groups)
    estimates = sums.sum(0) / weights.sum()
    if note := too_few(weights, min_documents):
        return [Interval(float(estimate), None, None, n, note) for estimate in estimates]
    lo, hi = _studentised_columns(sums, weights, np.random.default_rng(seed), resamples, (1 - level) / 2)
    tokens = np.bincount(place, minlength=n * n_groups).reshape(n, n_groups)
    notes = [too_few(held[held > 0], min_documents) if held.any() else "no tokens scored" for held in tokens.T]
    return [
        Interval(float(estimates[g]), None if note else float(lo[g]), None if note else float(hi[g]), n, note)
        for g, note in enumerate(notes)
    ]


def _studentised(
    sums: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> tuple[float, float]:
    lo, hi = _studentised_columns(sums[:, None], weights, rng, resamples, tail)
    return float(lo[0]), float(hi[0])


def _studentised_columns(
    sums_ng: np.ndarray, weights: np.ndarray, rng: np.random.Generator, resamples: int, tail: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ends [g] of the intervals of g ratios over the same weights, from the same resamples."""
    estimates = sums_ng.sum(0) / weights.sum()
    w = weights[:, None]
    centred = sums_ng - estimates * w  # moments about the estimates, so that no digits cancel
    moments = np.concatenate([centred, w, centred**2, centred * w, w**2], 1)
    t = np.concatenate([_t_values(chunk) for chunk in _resampled(rng, moments, resamples)])
    error = np.sqrt(np.square(centred).sum(0)) / weights.sum()
    tail = corrected_alpha(tail, weights)
    q_lo, q_hi = np.quantile(t, [tail, 1 - tail], axis=0)
    return estimates - q_hi * error, estimates - q_lo * error


def corrected_alpha(tail: float, weights: np.ndarray) -> float:
    """The nominal tail, made smaller so that intervals from few documents hold the truth as often as they say.

    Resampled documents vary less than documents do, by (n - 1) / n, and have lighter tails than Student's t; n is the
    effective number, because long documents leave few.
    """
    n = max(2, int(effective_documents(weights) + 1e-9))
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(1 - tail, n - 1))


def _t_values(drawn: np.ndarray) -> np.ndarray:
    """(ratio* - ratio) / its linearised standard error [chunk, g], for each resample's summed moments [chunk, 3 g + 2]."""
    g = (drawn.shape[1] - 2) // 3
    s, w, ss, sw, ww = np.split(drawn, [g, g + 1, 2 * g + 1, 3 * g + 1], axis=1)
    shift = s / w
    variance = np.maximum(ss - 2 * shift * sw + shift**2 * ww, 0)
    error = np.sqrt(variance) / w
    return np.divide(shift, error, out=np.zeros_like(shift), where=error > 0)


_METHODS = {"studentised": _studentised, "bca": _bca, "percentile": _percentile}
