"""Intervals of a token-weighted mean over crossed units: repetitions (pairs of noise, seeds) by documents. Used by
`sensitivity`, the report.

Both are samples, and each repetition sees every document, so the variance has three parts: V(repetitions) +
V(documents) - V(their interaction), which the first two both hold (two-way random effects, Searle, Casella & McCulloch
1992, ch. 4). Degrees of freedom by Satterthwaite (1946): five pairs are few, and a normal or a resampled interval would
be too short.
"""

from __future__ import annotations

import math

import numpy as np

from peftodyssey.stats.bootstrap import MIN_DOCUMENTS, Interval, too_few
from peftodyssey.stats.t_distribution import t_quantile

ONE_REPETITION = "over documents alone"
MAX_DEGREES_OF_FREEDOM = 500  # degrees of freedom: beyond, the quantile changes by less than 0.3 %


def two_way_interval(
    sums_rd: np.ndarray, tokens_d: np.ndarray, *, level: float = 0.95, min_documents: int = MIN_DOCUMENTS
) -> Interval:
    """Mean value per token with its interval.

    `sums_rd` float64 [repetitions, documents]: the value summed over the tokens of a document; `tokens_d` [documents].
    With one repetition the interval is over documents alone, and `note` says so. None under `min_documents` effective
    documents.
    """
    repetitions, documents = sums_rd.shape
    whole = tokens_d.sum()
    estimate = float(sums_rd.mean(0).sum() / whole)
    if note := too_few(np.asarray(tokens_d, np.float64), min_documents):
        return Interval(estimate, None, None, documents, note)
    parts = (sums_rd - estimate * tokens_d) / whole
    of_document = parts.mean(0)  # adds up to 0
    of_repetition = parts.sum(1)
    unbiased = documents / (documents - 1)
    v_documents = unbiased * float(np.square(of_document).sum())
    if repetitions == 1:
        half = conservative_t_quantile((1 + level) / 2, documents - 1) * math.sqrt(v_documents)
        return Interval(estimate, estimate - half, estimate + half, documents, ONE_REPETITION)
    v_repetitions = float(np.square(of_repetition).sum()) / (repetitions * (repetitions - 1))
    rest = parts - of_document - of_repetition[:, None] * (tokens_d / whole)
    v_rest = unbiased * float(np.square(rest).sum()) / (repetitions * (repetitions - 1))
    variance = max(v_documents + v_repetitions - v_rest, v_documents, v_repetitions)
    spread = v_documents**2 / (documents - 1) + v_repetitions**2 / (repetitions - 1)
    freedom = (v_documents + v_repetitions) ** 2 / spread if spread else math.inf
    half = conservative_t_quantile((1 + level) / 2, freedom) * math.sqrt(variance)
    return Interval(estimate, estimate - half, estimate + half, documents)


def conservative_t_quantile(p: float, freedom: float) -> float:
    """That of Student's t at the whole number of degrees of freedom below: never too short."""
    return t_quantile(p, max(1, int(min(freedom, MAX_DEGREES_OF_FREEDOM))))
