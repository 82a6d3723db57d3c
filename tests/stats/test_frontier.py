"""Matched learning: frontiers by definition, and differences that were put in are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peftodyssey.stats.frontier import Frontier, compare_at_level, frontier, mean_interval

pairs = st.lists(st.tuples(st.floats(-1, 3), st.floats(-1, 3)), max_size=20)


@given(pairs)
def test_no_pair_beats_the_frontier_and_it_rises(path: list[tuple[float, float]]) -> None:
    found = frontier(path)
    assert (np.diff(found.learning) > 0).all()
    assert (np.diff(found.forgetting) >= 0).all()
    for x, y in path:
        if x > 0:
            assert found.at(x) is not None
            assert found.at(x) <= y + 1e-12
    assert found.at(found.max_learning * 1.01 + 1e-9) is None
    assert found.at(-1e-9) is None


def test_a_straight_line_between_neighbours_and_the_base_as_start() -> None:
    found = frontier([(0.2, 0.1), (0.4, 0.5), (0.3, 0.6), (-0.1, -0.4)])  # the third is beaten, the last learnt nothing
    assert found.learning.tolist() == [0.0, 0.2, 0.4]
    assert found.at(0.1) == pytest.approx(0.05)
    assert found.at(0.3) == pytest.approx(0.3)


def test_a_planted_difference_is_found_at_equal_learning() -> None:
    """One forgets twice what the other does at every learning, and moves half as far: at the end it has forgotten as
    much.
    """
    draw = np.random.default_rng(0)
    one = {
        seed: frontier([(x, 2 * x + 0.01 * draw.standard_normal()) for x in np.linspace(0.05, 0.5, 10)])
        for seed in range(6)
    }
    other = {
        seed: frontier([(x, x + 0.01 * draw.standard_normal()) for x in np.linspace(0.1, 1.0, 10)]) for seed in range(6)
    }
    found = compare_at_level(one, other, 1.0)
    assert found is not None
    assert found.learning == pytest.approx(0.5)
    assert found.difference == pytest.approx(0.5, abs=0.03)
    assert found.lower < 0.5 < found.upper
    assert found.lower > 0


def test_three_seeds_are_points_and_nothing_learnt_is_no_comparison() -> None:
    line = frontier([(1.0, 1.0)])
    found = compare_at_level(dict.fromkeys(range(3), line), dict.fromkeys(range(3), line), 0.5)
    assert (found.lower, found.upper, found.differences) == (None, None, (0.0, 0.0, 0.0))
    assert compare_at_level({0: line}, {1: line}, 0.5) is None
    assert compare_at_level({0: Frontier(np.zeros(1), np.zeros(1))}, {0: line}, 0.5) is None


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.array([0.3, 0.1, 0.4, 0.2, 0.9])
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval(values[:4]) == (None, None)
