"""Means of a text under resampling of its clusters: the same draw for every column, so that differences stay paired.

A cluster is what is drawn at random: a file, a paper, an article, with all documents that were cut from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.bootstrap import effective_documents

N_RESAMPLES = 1000
_CHUNK = 1 << 22  # clusters that are drawn at once: limits the memory


@dataclass(frozen=True)
class ClusterSums:
    """One text: losses of each column and scored tokens, summed over the tokens of each cluster."""

    sums: np.ndarray  # float64 [clusters, columns], nats
    tokens: np.ndarray  # float64 [clusters]

    @property
    def effective_clusters(self) -> float:
        """The number of equally long clusters that would be as informative (Kish 1965)."""
        return effective_documents(self.tokens)


def sums_by_cluster(values: np.ndarray, cluster: np.ndarray, n_clusters: int) -> np.ndarray:
    """Sums of float64 [tokens] over each cluster, int [tokens] in 0..n_clusters-1; float64 [n_clusters]."""
    return np.bincount(cluster, np.asarray(values, np.float64), n_clusters)


def joined(texts: Sequence[ClusterSums]) -> ClusterSums:
    """Several texts with the same columns as one: their tokens are pooled, their clusters are drawn together."""
    return ClusterSums(np.concatenate([t.sums for t in texts]), np.concatenate([t.tokens for t in texts]))


def resampled_means(text: ClusterSums, seed: Sequence[int], n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """Nats per token of each column, float64 [1 + resamples, columns]: of the text itself, then of each resample.

    As many clusters as the text has are drawn with replacement. `seed` makes the draws of several texts independent.
    """
    n = len(text.tokens)
    rng = np.random.default_rng(list(seed))
    both = np.concatenate([text.sums, text.tokens[:, None]], 1)
    totals = [both.sum(0, keepdims=True)]
    step = max(_CHUNK // n, 1)
    for first in range(0, n_resamples, step):
        rows = min(step, n_resamples - first)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        totals.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ both)
    stacked = np.concatenate(totals)
    return stacked[:, :-1] / stacked[:, -1:]
