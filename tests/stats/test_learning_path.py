"""Interpolation along a learning path: PCHIP as SciPy has it, and no effect where methods share one convex curve."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from peftodyssey.stats.learning_path import forgetting_at, reach
from peftodyssey.stats.monotone_interpolation import pchip


@pytest.mark.parametrize("points", [2, 3, 4, 7])
def test_pchip_is_scipys(points):
    rng = np.random.default_rng(points)
    x = np.cumsum(rng.uniform(0.1, 1, (40, points)), axis=1)
    y = rng.normal(0, 1, (40, points)).cumsum(1)
    y[:20] = np.sort(y[:20], axis=1)
    y[20, 0] = y[20, 1]
    at = np.linspace(0.05, 6, 50)
    values = pchip(x, y, at)
    for row in range(40):
        inside = (at >= x[row, 0]) & (at <= x[row, -1])
        expected = PchipInterpolator(x[row], y[row])(at[inside])
        np.testing.assert_allclose(values[row, inside], expected, rtol=1e-10, atol=1e-12)


def test_beyond_its_ends_a_curve_goes_on_straight():
    x, y = np.array([[0.0, 1, 2]]), np.array([[0.0, 1, 4]])
    slope = PchipInterpolator(x[0], y[0]).derivative()(2.0)
    np.testing.assert_allclose(pchip(x, y, np.array([2.0, 3.0]))[0], [4.0, 4 + slope])


def convex(learning):
    """The noise-free curve F = 1.6 L^2."""
    return np.stack([np.array(learning), 1.6 * np.array(learning) ** 2], 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.05, 0.13, 0.34), (0.10, 0.20, 0.30)),
        ((0.08, 0.2, 0.31), (0.04, 0.12, 0.3)),
        ((0.1, 0.2, 0.3), (0.06, 0.15, 0.32)),
    ],
)
def test_two_grids_on_one_convex_curve_have_no_difference(first, second):
    level = np.array([0.25, 0.5, 0.75]) * 0.3
    origin = np.zeros((1, 2))
    a, b = (forgetting_at(origin, convex(grid)[None], level)[0] for grid in (first, second))
    assert np.abs(a - b).max() < 0.002
    chords = [np.interp(level, [0, *grid], convex((0, *grid))[:, 1]) for grid in (first, second)]
    assert np.abs(chords[0] - chords[1]).max() > 0.004  # what straight lines report there


def test_a_path_leaves_out_what_is_surpassed_and_keeps_its_origin():
    cells = np.array([[0.3, 0.05], [0.1, 0.2], [-0.1, 0.0], [0.2, 0.02], [0.4, 0.3]])[None]
    origin = np.array([[0.0, 0.01]])
    at = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    kept = PchipInterpolator([0.0, 0.2, 0.3, 0.4], [0.01, 0.02, 0.05, 0.3])
    np.testing.assert_allclose(forgetting_at(origin, cells, at)[0], kept(at))
    assert reach(cells[:, :, 0]) == pytest.approx([0.4])


def test_a_quantised_path_starts_at_its_storage_cost():
    cells = np.array([[0.2, 0.10], [0.3, 0.15]])[None]
    stored = forgetting_at(np.array([[-0.06, 0.061]]), cells, np.array([-0.06, 0.1]))[0]
    assert stored[0] == pytest.approx(0.061)
    assert stored[1] > forgetting_at(np.zeros((1, 2)), cells, np.array([0.1]))[0, 0]


def test_paths_of_different_shape_are_computed_together_and_none_without_learning():
    rng = np.random.default_rng(1)
    cells = rng.normal(0.1, 0.2, (30, 4, 2))
    cells[0, :, 0] = -0.1
    origin, levels = np.zeros((30, 2)), np.array([0.05, 0.1])
    together = forgetting_at(origin, cells, levels)
    alone = np.concatenate([forgetting_at(origin[i : i + 1], cells[i : i + 1], levels) for i in range(30)])
    np.testing.assert_array_equal(together, alone)
    assert np.isnan(together[0]).all()
    assert (np.isnan(together).any(1) == (cells[:, :, 0].max(1) <= 0)).all()
