"""Squared maximum mean discrepancy of two samples, with a p-value from permutations. Called by `measure.similarity`.

Gretton et al. 2012 (JMLR 13:723), equation 3: the unbiased estimate, which is below 0 as often as above where both
samples are of one distribution. Pairs within one document are left out of it: they are alike for another reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_DOCUMENTS = 5  # on either side, for a p-value: 252 ways of parting ten


@dataclass(frozen=True)
class Mmd:
    """The estimate and how seldom documents that are shuffled between the samples give as large a one."""

    estimate: float
    p_value: float | None  # None where one side has too few documents


def squared_distances(x_nd: np.ndarray, y_md: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64 [n, m]."""
    x, y = np.asarray(x_nd, np.float64), np.asarray(y_md, np.float64)
    middle = x.mean(0)  # distances do not see it, and fewer digits cancel
    x, y = x - middle, y - middle
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
    """Unbiased squared MMD under k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)), and its p-value, never below 1 / (1 +
    permutations).

    Documents (ints; None: every point is one of its own) are what is permuted, whole, as many on each side as there
    are.
    """
    n, total = len(x_nd), len(x_nd) + len(y_md)
    x_doc, y_doc = (_numbered(ids, size) for ids, size in ((x_document, n), (y_document, total - n)))
    sides = int(x_doc.max()) + 1, int(y_doc.max()) + 1
    document = np.concatenate([x_doc, y_doc + sides[0]])
    pooled = np.concatenate([x_nd, y_md])
    apart = (document[:, None] != document).astype(np.float64)
    kernel = np.exp(-squared_distances(pooled, pooled) / (2 * bandwidth**2)) * apart
    observed = _estimates(kernel, apart, (np.arange(total) < n)[None].astype(np.float64))[0]
    if min(sides) < MIN_DOCUMENTS:
        return Mmd(float(observed), None)
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(sum(sides)), (permutations, 1)), axis=1)
    permuted = _estimates(kernel, apart, (orders < sides[0])[:, document].astype(np.float64))
    # Rounding may part equal values: what lies within it counts as no smaller.
    as_large = int((permuted >= observed - 1e-12).sum())
    return Mmd(float(observed), (1 + as_large) / (1 + permutations))


def _numbered(document: np.ndarray | None, n: int) -> np.ndarray:
    return np.arange(n) if document is None else np.unique(document, return_inverse=True)[1]


def _estimates(kernel: np.ndarray, apart: np.ndarray, in_x: np.ndarray) -> np.ndarray:
    """One estimate for every row of `in_x` [ways, points], which says who is in the first sample."""
    parts = [_sums(matrix, in_x) for matrix in (kernel, apart)]
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, yy, xy = (sums / counts for sums, counts in zip(*parts, strict=True))
    return xx + yy - 2 * xy


def _sums(matrix: np.ndarray, in_x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of a symmetric matrix within the first sample, within the second, and between them."""
    reached = in_x @ matrix
    xx = (reached * in_x).sum(1)
    xy = (reached * (1 - in_x)).sum(1)
    return xx, matrix.sum() - xx - 2 * xy, xy
