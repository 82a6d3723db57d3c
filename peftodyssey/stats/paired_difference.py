"""The closed-form interval of a paired difference of two columns, from their sums over clusters.

The estimate is sum(d) / sum(w), with d the difference summed over the tokens of a cluster and w its tokens. Its
standard error is the linearised one of a ratio (Cochran 1977, eq. 6.13) over n clusters:
sqrt(n / (n - 1) * sum((d - estimate * w)^2)) / sum(w), times Student's t at the effective number of clusters less 1.
The report's page and the SQL view `differences` hold the same formula.
"""

from __future__ import annotations

import math

import numpy as np

from peftodyssey.stats.bootstrap import LEVEL, MIN_DOCUMENTS, Interval, effective_documents, too_few
from peftodyssey.stats.t_distribution import t_quantile_real


def quantile(tokens: np.ndarray, min_clusters: int = MIN_DOCUMENTS) -> float | None:
    """Student's t for a 95 % interval over clusters of float64 [clusters] tokens; None where they are too few."""
    if not len(tokens) or too_few(tokens, min_clusters):
        return None
    return t_quantile_real((1 + LEVEL) / 2, max(effective_documents(tokens) - 1, 1.0))


def paired_differences(
    differences: np.ndarray, tokens: np.ndarray, *, min_clusters: int = MIN_DOCUMENTS
) -> list[Interval]:
    """Nats per token of each column of float64 [clusters, columns], with its interval over clusters.

    `differences` are summed over the tokens of each cluster; `tokens` float64 [clusters] counts them.
    """
    n, total, t = len(tokens), float(tokens.sum()), quantile(tokens, min_clusters)
    estimates = differences.sum(0) / total if total else np.full(differences.shape[1], math.nan)
    if t is None:
        note = too_few(tokens, min_clusters) if n else "no tokens scored"
        return [Interval(float(estimate), None, None, n, note) for estimate in estimates]
    squares = np.square(differences - estimates * tokens[:, None]).sum(0)
    half = t * np.sqrt(n / (n - 1) * squares) / total
    return [Interval(float(e), float(e - h), float(e + h), n) for e, h in zip(estimates, half, strict=True)]
