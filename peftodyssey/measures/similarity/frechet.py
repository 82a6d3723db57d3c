"""Squared Fréchet distance of Gaussians fitted to two samples of vectors.

|a - b|^2 + tr(A + B - 2 (A B)^(1/2)) with means a, b and covariances A, B (Dowson and Landau 1982). There are fewer
chunks than dimensions, so the covariances are shrunk towards a multiple of the identity by the oracle approximating
shrinkage of Chen et al. 2010 (IEEE TSP 58:5016), equation 23. The estimate is biased upwards; `compute`
states by how much.
"""

from __future__ import annotations

import numpy as np


def frechet(x_nd: np.ndarray, y_md: np.ndarray) -> float:
    """The squared distance, in the squared unit of the vectors; at least 0.

    It is computed in the span of both samples, at most n + m dimensions. Outside of it both covariances are multiples
    of the identity, which add their part in closed form.
    """
    x, y = np.asarray(x_nd, np.float64), np.asarray(y_md, np.float64)
    means = x.mean(0), y.mean(0)
    centred = [sample - mean for sample, mean in zip((x, y), means, strict=True)]
    width = x.shape[1]
    weights = [shrinkage(sample) for sample in centred]
    scales = [np.square(sample).sum() / (len(sample) * width) for sample in centred]
    basis = _span(np.concatenate(centred))
    a, b = (
        (1 - w) * (s @ basis).T @ (s @ basis) / len(s) + w * scale * np.eye(basis.shape[1])
        for s, w, scale in zip(centred, weights, scales, strict=True)
    )
    outside = [np.sqrt(w * scale) for w, scale in zip(weights, scales, strict=True)]
    mean_term = np.square(means[0] - means[1]).sum() + (width - basis.shape[1]) * (outside[0] - outside[1]) ** 2
    root = _square_root(a)
    cross_term = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    return float(max(mean_term + np.trace(a) + np.trace(b) - 2 * cross_term, 0))


def shrinkage(centred_nd: np.ndarray) -> float:
    """Weight of the identity in the shrunk covariance, 0 to 1, of a sample with mean 0."""
    n, width = centred_nd.shape
    gram = centred_nd @ centred_nd.T if n < width else centred_nd.T @ centred_nd
    squared, trace = np.square(gram).sum() / n**2, np.trace(gram) / n  # tr(S^2) and tr(S)
    denominator = (n + 1 - 2 / width) * (squared - trace**2 / width)
    return 1.0 if denominator <= 0 else float(min(1.0, ((1 - 2 / width) * squared + trace**2) / denominator))


def _span(rows_nd: np.ndarray) -> np.ndarray:
    """An orthonormal basis [d, r] of the span of the rows; the identity where there are at least d rows."""
    n, width = rows_nd.shape
    return np.eye(width) if n >= width else np.linalg.qr(rows_nd.T)[0]


def _square_root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
