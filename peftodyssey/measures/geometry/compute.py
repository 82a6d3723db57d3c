"""How far weights moved: statistics of one matrix's update from singular values and vectors, and of a whole cell.

A matrix is (out, in), so left singular vectors are in the space of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOP_DIRECTIONS = 10  # singular directions that are compared, the strongest first
INTRUDER_COSINE = 0.5  # below: an intruder dimension
MAX_SVD_FLOPS = 1e13  # of the decompositions of all matrices; above, only a sample of the layers is decomposed
MIN_LAYERS = 3


def stable_rank(values: np.ndarray) -> float:
    """||M||_F^2 / ||M||_2^2 of a matrix with the singular `values` [n]: 1 to n; NaN where all are 0."""
    squares = np.asarray(values, np.float64) ** 2
    return float(squares.sum() / squares.max()) if squares.size and squares.max() > 0 else math.nan


def effective_rank(values: np.ndarray) -> float:
    """The exponential of the entropy of the singular `values` [n] over their sum: 1 to n; NaN where all are 0.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    values = np.asarray(values, np.float64)
    if not values.size or values.sum() <= 0:
        return math.nan
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def principal_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Principal angles in radians, ascending, [k], between the spans of orthonormal columns, both [n, k].

    Small angles come from sines and large ones from cosines, which is accurate for both (Bjorck and Golub 1973).
    """
    first, second = (np.asarray(columns, np.float64) for columns in (first, second))
    common = first.T @ second
    cosines = np.linalg.svd(common, compute_uv=False)
    sines = np.linalg.svd(second - first @ common, compute_uv=False)[::-1]
    return np.where(cosines**2 < 0.5, np.arccos(np.clip(cosines, 0, 1)), np.arcsin(np.clip(sines, 0, 1)))


def max_cosines(tuned_left: np.ndarray, base_left: np.ndarray) -> np.ndarray:
    """Largest |cosine| of each column of `tuned_left` [n, k] to any column of `base_left` [n, m], [k]; unit columns."""
    return np.abs(np.asarray(base_left, np.float64).T @ np.asarray(tuned_left, np.float64)).max(axis=0)


def count_intruders(
    tuned_left: np.ndarray, base_left: np.ndarray, top: int = TOP_DIRECTIONS, cosine: float = INTRUDER_COSINE
) -> int:
    """Intruder dimensions: how many of the tuned matrix's `top` left singular vectors are unlike each of the base's.

    Unlike means |cosine| below `cosine` (Shuttleworth et al., arXiv 2410.21228). Columns [n, k] are singular vectors,
    the strongest first; `base_left` has all with a singular value above 0.
    """
    return int((max_cosines(tuned_left[:, :top], base_left) < cosine).sum())


def spectrum(values: np.ndarray) -> dict[str, float]:
    """`spectral_norm`, `stable_rank` and `effective_rank` of an update with the singular `values` [n]."""
    return {
        "spectral_norm": float(np.max(values)),
        "stable_rank": stable_rank(values),
        "effective_rank": effective_rank(values),
    }


def direction_change(tuned_left: np.ndarray, base_left: np.ndarray, top: int = TOP_DIRECTIONS) -> dict[str, float]:
    """How much the strongest directions rotated: mean and largest principal angle in degrees, and `intruders`.

    Both [n, k], left singular vectors, the strongest first; the spans of the first `top` of each are compared.
    """
    top = min(top, tuned_left.shape[1], base_left.shape[1])
    degrees = np.degrees(principal_angles(base_left[:, :top], tuned_left[:, :top]))
    return {
        "angle_mean_degrees": float(degrees.mean()),
        "angle_largest_degrees": float(degrees.max()),
        "intruders": count_intruders(tuned_left, base_left, top),
    }


def summarize(rows: Sequence[Mapping[str, Any]], base_norm: float) -> dict[str, float | None]:
    """The statistics of a cell from its matrices; `base_norm` is the Frobenius norm of all weights of the base.

    `update_norm_relative` is over all weights; `effective_rank_mean` and `intruder_dimensions` are means over the
    matrices that were decomposed, None if there are none.
    """
    update_norm = math.sqrt(math.fsum(row["update_norm"] ** 2 for row in rows))
    summary: dict[str, float | None] = {"update_norm_relative": update_norm / base_norm}
    for name, column in (("effective_rank_mean", "effective_rank"), ("intruder_dimensions", "intruders")):
        values = [row[column] for row in rows if row.get(column) is not None]
        summary[name] = math.fsum(values) / len(values) if values else None
    return summary


def svd_flops(rows: int, columns: int) -> float:
    """Approximate FLOPs to find all singular values and left singular vectors of a matrix of this size."""
    smaller = min(rows, columns)
    return rows * columns * smaller + 10.0 * smaller**3


def sampled_layers(
    flops_by_layer: Sequence[float], max_flops: float = MAX_SVD_FLOPS, min_layers: int = MIN_LAYERS
) -> tuple[int, ...]:
    """Indices of the layers that are decomposed: all if that takes at most `max_flops`, else an even sample.

    A sample has at least `min_layers` layers. It depends on the sizes alone, so all methods on one base are compared on
    the same matrices.
    """
    layers, total = len(flops_by_layer), sum(flops_by_layer)
    if total <= max_flops or layers <= min_layers:
        return tuple(range(layers))
    chosen = max(min_layers, int(layers * max_flops / total))
    return tuple(sorted({round(index) for index in np.linspace(0, layers - 1, chosen)}))
