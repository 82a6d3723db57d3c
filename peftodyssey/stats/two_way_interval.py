"""Intervals of a token-weighted mean over two crossed random factors: repetitions (noise pairs, seeds) and documents.

Every repetition sees every document, so the variance has three parts: V(repetitions) + V(documents) - V(interaction),
because the first two both contain the interaction (two-way random effects; Searle, Casella & McCulloch 1992, ch. 4).
Degrees of freedom are Satterthwaite's (1946): with five repetitions a normal or a resampled interval is too short.
"""

from __future__ import annotations

import math

import numpy as np

from peftodyssey.stats.bootstrap import LEVEL, Interval, too_few
from peftodyssey.stats.t_distribution import MAX_DEGREES_OF_FREEDOM, t_quantile

ONE_REPETITION = "over documents alone"


def two_way_interval(sums_rd: np.ndarray, tokens_d: np.ndarray) -> Interval:
    """Mean value per token with its interval.

    `sums_rd` float64 [repetitions, documents]: the value summed over the tokens of a document; `tokens_d` [documents].
    With one repetition the interval is over documents alone, and `note` says so. There is none under 30 effective
    documents.
    """
    n_repetitions, n_documents = sums_rd.shape
    total_tokens = tokens_d.sum()
    estimate = float(sums_rd.mean(0).sum() / total_tokens)
    if note := too_few(np.asarray(tokens_d, np.float64)):
        return Interval(estimate, None, None, n_documents, note)
    deviations = (sums_rd - estimate * tokens_d) / total_tokens
    document_effect = deviations.mean(0)  # sums to 0
    repetition_effect = deviations.sum(1)
    unbiased = n_documents / (n_documents - 1)
    v_documents = unbiased * float(np.square(document_effect).sum())
    if n_repetitions == 1:
        half_width = conservative_t_quantile((1 + LEVEL) / 2, n_documents - 1) * math.sqrt(v_documents)
        return Interval(estimate, estimate - half_width, estimate + half_width, n_documents, ONE_REPETITION)
    v_repetitions = float(np.square(repetition_effect).sum()) / (n_repetitions * (n_repetitions - 1))
    residual = deviations - document_effect - repetition_effect[:, None] * (tokens_d / total_tokens)
    v_interaction = unbiased * float(np.square(residual).sum()) / (n_repetitions * (n_repetitions - 1))
    variance = max(v_documents + v_repetitions - v_interaction, v_documents, v_repetitions)
    squared = v_documents**2 / (n_documents - 1) + v_repetitions**2 / (n_repetitions - 1)
    degrees_of_freedom = (v_documents + v_repetitions) ** 2 / squared if squared else math.inf
    half_width = conservative_t_quantile((1 + LEVEL) / 2, degrees_of_freedom) * math.sqrt(variance)
    return Interval(estimate, estimate - half_width, estimate + half_width, n_documents)


def conservative_t_quantile(p: float, degrees_of_freedom: float) -> float:
    """Student's quantile at the whole number of degrees of freedom below, so that an interval is never too short."""
    return t_quantile(p, max(1, int(min(degrees_of_freedom, MAX_DEGREES_OF_FREEDOM))))
