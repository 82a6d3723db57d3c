"""Monotone regression: the nondecreasing step function nearest to some points, by pooling adjacent violators.

Ayer, Brunk, Ewing, Reid and Silverman 1955. It needs no form of the relation, and no units.
"""

from __future__ import annotations

import numpy as np


def isotonic(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The fit to the points `x`, `y` [n] at the places `at` [m]: straight between points, constant beyond the ends.

    Points with one x are one point, their mean with their number as weight.
    """
    places, inverse = np.unique(np.asarray(x, np.float64), return_inverse=True)
    weight = np.bincount(inverse).astype(np.float64)
    mean = np.bincount(inverse, np.asarray(y, np.float64)) / weight
    blocks: list[tuple[float, float, int]] = []  # mean, weight, places
    for value, own in zip(mean, weight, strict=True):
        blocks.append((value, own, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (left, a, m), (right, b, n) = blocks[-2:]
            blocks[-2:] = [((a * left + b * right) / (a + b), a + b, m + n)]
    fitted = np.repeat([block[0] for block in blocks], [block[2] for block in blocks])
    return np.interp(np.asarray(at, np.float64), places, fitted)
