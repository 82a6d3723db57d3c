"""Squared maximum mean discrepancy of two samples, with a p-value from permutations.

Gretton et al. 2012 (JMLR 13:723), equation 3: the unbiased estimate, which can be negative if both samples come from
one distribution. Pairs within one document are left out, because they are alike for another reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_DOCUMENTS = 5  # in either sample, for a p-value: 252 ways to divide ten


@dataclass(frozen=True)
class Mmd:
    """The estimate, and the share of permutations of documents between the samples that give one as large."""

    estimate: float
    p_value: float | None  # None where one sample has too few documents


def squared_distances(x_nd: np.ndarray, y_md: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64 [n, m]."""
    x, y = np.asarray(x_nd, np.float64), np.asarray(y_md, np.float64)
    centre = x.mean(0)  # subtracting it changes no distance and avoids cancellation
    x, y = x - centre, y - centre
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0)


def median_distance(x_nd: np.ndarray) -> float:
    """The median Euclidean distance of two points of the sample: the bandwidth of the median heuristic."""
    distances = np.sqrt(squared_distances(x_nd, x_nd))
    return float(np.median(distances[np.triu_indices(len(distances), 1)]))


def mmd(
    x_nd: np.ndarray,
    y_md: np.ndarray,
    bandwidth: float,
    *,
    x_document: np.ndarray | None = None,
    y_document: np.ndarray | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Mmd:
    """Unbiased squared MMD under k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)), and its p-value.

    Whole documents are permuted, keeping the number of documents of each sample (ids int [n]; None: every point is its
    own document). The p-value is at least 1 / (1 + permutations).
    """
    n, total = len(x_nd), len(x_nd) + len(y_md)
    x_ids, y_ids = (_document_numbers(ids, size) for ids, size in ((x_document, n), (y_document, total - n)))
    n_documents = int(x_ids.max()) + 1, int(y_ids.max()) + 1
    document = np.concatenate([x_ids, y_ids + n_documents[0]])
    pooled = np.concatenate([x_nd, y_md])
    across_documents = (document[:, None] != document).astype(np.float64)
    kernel = np.exp(-squared_distances(pooled, pooled) / (2 * bandwidth**2)) * across_documents
    observed = _estimates(kernel, across_documents, (np.arange(total) < n)[None].astype(np.float64))[0]
    if min(n_documents) < MIN_DOCUMENTS:
        return Mmd(float(observed), None)
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(sum(n_documents)), (permutations, 1)), axis=1)
    in_x = (orders < n_documents[0])[:, document].astype(np.float64)
    permuted = _estimates(kernel, across_documents, in_x)
    # Equal values may differ by rounding: those within it count as no smaller.
    as_large = int((permuted >= observed - 1e-12).sum())
    return Mmd(float(observed), (1 + as_large) / (1 + permutations))


def _document_numbers(document: np.ndarray | None, n: int) -> np.ndarray:
    return np.arange(n) if document is None else np.unique(document, return_inverse=True)[1]


def _estimates(kernel: np.ndarray, across_documents: np.ndarray, in_x: np.ndarray) -> np.ndarray:
    """One estimate for every row of `in_x` [permutations, points], which says which points are in the first sample."""
    parts = [_sums(matrix, in_x) for matrix in (kernel, across_documents)]
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy, xy = (sums / counts for sums, counts in zip(*parts, strict=True))
    return xx + yy - 2 * xy


def _sums(matrix: np.ndarray, in_x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of a symmetric matrix within the first sample, within the second, and between them."""
    rows = in_x @ matrix
    xx = (rows * in_x).sum(1)
    xy = (rows * (1 - in_x)).sum(1)
    return xx, matrix.sum() - xx - 2 * xy, xy
