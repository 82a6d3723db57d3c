"""Piecewise cubic interpolation that keeps the shape of its points (PCHIP), for many curves at once.

Fritsch & Butland 1984: slopes are weighted harmonic means of the neighbouring chords, 0 at a local extremum, so that
the curve never overshoots; the ends have a three-point formula that is limited in the same way. Straight chords put a
convex curve too high between its points.
"""

from __future__ import annotations

import numpy as np


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Each curve at the same places `at` [m]; `x` and `y` float64 [n, k], k >= 2, x strictly ascending; float64 [n, m].

    Beyond the ends the curve goes on straight, with its slope there. Two points make a straight line.
    """
    step = np.diff(x, axis=1)
    chord = np.diff(y, axis=1) / step
    slope = _slopes(step, chord)
    k = x.shape[1]
    out = np.empty((len(x), len(at)))
    rows = np.arange(len(x))
    for column, place in enumerate(at):
        i = np.clip((x <= place).sum(1) - 1, 0, k - 2)
        h, t = step[rows, i], place - x[rows, i]
        first, last, mean = slope[rows, i], slope[rows, i + 1], chord[rows, i]
        square = (3 * mean - 2 * first - last) / h
        cube = (first + last - 2 * mean) / h**2
        inside = y[rows, i] + t * (first + t * (square + t * cube))
        before = y[:, 0] + slope[:, 0] * (place - x[:, 0])
        behind = y[:, -1] + slope[:, -1] * (place - x[:, -1])
        out[:, column] = np.where(place < x[:, 0], before, np.where(place > x[:, -1], behind, inside))
    return out


def _slopes(step: np.ndarray, chord: np.ndarray) -> np.ndarray:
    """The slope at each point, [n, k], from widths and slopes of the chords, both [n, k - 1]."""
    if chord.shape[1] == 1:
        return np.repeat(chord, 2, axis=1)
    left, right, m_left, m_right = step[:, :-1], step[:, 1:], chord[:, :-1], chord[:, 1:]
    w_left, w_right = 2 * right + left, right + 2 * left
    same_sign = m_left * m_right > 0
    safe_left, safe_right = np.where(same_sign, m_left, 1.0), np.where(same_sign, m_right, 1.0)
    inner = np.where(same_sign, (w_left + w_right) / (w_left / safe_left + w_right / safe_right), 0.0)
    first = _end(step[:, 0], step[:, 1], chord[:, 0], chord[:, 1])
    last = _end(step[:, -1], step[:, -2], chord[:, -1], chord[:, -2])
    return np.concatenate([first[:, None], inner, last[:, None]], 1)


def _end(h: np.ndarray, h_next: np.ndarray, m: np.ndarray, m_next: np.ndarray) -> np.ndarray:
    """The slope at an end [n] from its chord and the next: of the parabola through three points, limited."""
    slope = ((2 * h + h_next) * m - h * m_next) / (h + h_next)
    slope = np.where(slope * m <= 0, 0.0, slope)
    return np.where((m * m_next <= 0) & (np.abs(slope) > 3 * np.abs(m)), 3 * m, slope)
