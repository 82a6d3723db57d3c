"""Numbers of an update: against scipy, closed forms and planted directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from peftodyssey.measures.geometry import compute as geometry


def orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_ranks_lie_between_one_and_the_number_of_values_and_do_not_depend_on_the_size(
    values: list[float], scale: float
) -> None:
    found = np.array(values)
    for rank in (geometry.stable_rank, geometry.effective_rank):
        assert 1 - 1e-9 <= rank(found) <= len(values) + 1e-9
        assert rank(scale * found) == pytest.approx(rank(found), rel=1e-9)
        assert rank(np.append(found, 0.0)) == pytest.approx(rank(found), rel=1e-12)
    assert geometry.effective_rank(found) == pytest.approx(math.exp(scipy.stats.entropy(found)), rel=1e-9)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_equal_values_have_the_full_rank_and_one_value_has_rank_one(n: int) -> None:
    one = np.zeros(n)
    one[0] = 5.0
    for rank in (geometry.stable_rank, geometry.effective_rank):
        assert rank(np.full(n, 0.3)) == pytest.approx(n)
        assert rank(one) == 1.0
        assert math.isnan(rank(np.zeros(n)))


@pytest.mark.parametrize("apart", [1e-9, 1e-4, 0.3, 1.0, 5.0])
def test_principal_angles_are_scipys(apart: float) -> None:
    rng = np.random.default_rng(3)
    first = orthonormal(rng, 20, 6)
    second = np.linalg.qr(first + apart * rng.normal(size=first.shape))[0]
    expected = scipy.linalg.subspace_angles(first, second)[::-1]
    np.testing.assert_allclose(geometry.principal_angles(first, second), expected, rtol=1e-6, atol=1e-14)


def test_a_plane_turned_by_a_known_angle() -> None:
    axes = np.eye(5)
    tilted = np.stack([axes[0], math.cos(0.4) * axes[1] + math.sin(0.4) * axes[2]], axis=1)
    found = geometry.direction_change(tilted, axes[:, :2])
    assert found["angle_largest_degrees"] == pytest.approx(math.degrees(0.4))
    assert found["angle_mean_degrees"] == pytest.approx(math.degrees(0.2))


@pytest.mark.parametrize("planted", [0, 1, 4])
def test_planted_intruders_are_counted(planted: int) -> None:
    """New directions, stronger than the base's, in a space that the base does not reach."""
    rng = np.random.default_rng(planted)
    whole = orthonormal(rng, 60, 60)
    values = np.linspace(10, 5, 40)
    base = (whole[:, :40] * values) @ orthonormal(rng, 80, 40).T
    tuned = base + sum((30 + i) * np.outer(whole[:, 40 + i], orthonormal(rng, 80, 1)[:, 0]) for i in range(planted))
    left, spectrum, _ = np.linalg.svd(base, full_matrices=False)
    left = left[:, spectrum > 1e-9]
    tuned_left = np.linalg.svd(tuned, full_matrices=False)[0]
    assert geometry.count_intruders(tuned_left, left) == planted
    assert geometry.count_intruders(tuned_left, left, top=2) == min(2, planted)
    assert geometry.count_intruders(tuned_left, left, cosine=0.0) == 0


def test_a_direction_counts_by_its_nearest_base_vector() -> None:
    base = np.eye(4)
    for cosine, expected in ((0.51, 0), (0.49, 1)):
        rest = math.sqrt((1 - cosine**2) / 3)
        assert geometry.count_intruders(np.array([[cosine], [rest], [rest], [rest]]), base) == (
            expected if rest < 0.5 else 0
        )
    spread = np.full((9, 1), 1 / 3)
    assert geometry.count_intruders(spread, np.eye(9)) == 1


def test_a_cell_is_the_sum_of_its_matrices() -> None:
    rows = [
        {"update_norm": 3.0, "effective_rank": 2.0, "intruders": 1},
        {"update_norm": 4.0, "effective_rank": 4.0, "intruders": 0},
        {"update_norm": 0.0, "effective_rank": None, "intruders": None},
    ]
    assert geometry.summarize(rows, 50.0) == {
        "update_norm_relative": 0.1,
        "effective_rank_mean": 3.0,
        "intruder_dimensions": 0.5,
    }
    assert geometry.summarize(rows[2:], 50.0) == {
        "update_norm_relative": 0.0,
        "effective_rank_mean": None,
        "intruder_dimensions": None,
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.floats(0.01, 5.0), st.integers(1, 6))
def test_a_sample_is_spread_from_first_to_last_and_costs_no_more_than_it_may(
    layers: int, each: float, fewest: int
) -> None:
    chosen = geometry.sampled_layers([each] * layers, max_flops=20.0, min_layers=fewest)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == layers or abs(len(chosen) - max(fewest, int(20.0 / each))) <= 1  # of rounding
    assert len(chosen) * each <= 20.0 + 1e-6 or len(chosen) == min(fewest, layers)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (0, layers - 1)
