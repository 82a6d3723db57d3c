"""Correlation against SciPy, regression by hand and simulation; Holm's correction against worked numbers."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftodyssey.measures.similarity.correlation import correlation, holm_adjusted, ranks

COLUMNS = st.lists(st.tuples(*[st.floats(-1e3, 1e3).map(lambda v: round(v, 2))] * 2), min_size=5, max_size=20)


@settings(max_examples=25, deadline=None)
@given(COLUMNS)
def test_coefficients_are_those_of_scipy(points) -> None:
    x, y = map(list, zip(*points, strict=True))
    if len(set(x)) < 2 or len(set(y)) < 2:
        for kind in ("pearson", "spearman"):
            found = correlation(x, y, kind)
            assert (found.r, found.p_value) == (None, None)
            assert "does not vary" in found.note
        return
    assert correlation(x, y, "pearson").r == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-7)
    assert correlation(x, y, "spearman").r == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("n", [4, 6])
def test_p_is_that_of_all_permutations(n) -> None:
    x, y = np.random.default_rng(n).normal(size=(2, n))
    orders = np.array(list(permutations(range(n))))
    for kind, a, b in (("pearson", x, y), ("spearman", stats.rankdata(x), stats.rankdata(y))):
        seen = np.array([np.corrcoef(a, b[order])[0, 1] for order in orders])
        assert correlation(x, y, kind).p_value == pytest.approx(np.mean(abs(seen) >= abs(seen[0]) - 1e-9), abs=1e-12)


def test_of_many_points_p_is_that_of_t_and_the_interval_scipys() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = 0.25 * x + rng.normal(size=60)
    found, theirs = correlation(x, y, "pearson"), stats.pearsonr(x, y)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.01)
    assert (found.lower, found.upper) == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-9)


def test_within_groups_is_the_regression_on_group_and_x() -> None:
    rng = np.random.default_rng(2)
    group = [*"aaaabbbbbcc", "alone"]
    x, y = rng.normal(size=(2, 12)) + 5 * np.unique(group, return_inverse=True)[1]
    found = correlation(x, y, "pearson", group)
    assert (found.n_points, found.n_groups) == (11, 3)
    dummies = np.stack([np.array(group[:-1]) == name for name in "abc"], 1).astype(float)
    rest = [column - dummies @ np.linalg.lstsq(dummies, column, rcond=None)[0] for column in (x[:-1], y[:-1])]
    assert found.r == pytest.approx(np.corrcoef(*rest)[0, 1], abs=1e-12)
    assert correlation(x, y, "pearson").r > 0.9 > abs(found.r), (
        "groups apart look like a correlation, and are none within"
    )


def test_within_groups_only_orders_within_groups_are_tried() -> None:
    found = correlation([1, 2, 3, 11, 12, 13], [1, 2, 3, 0, 1, 2], "pearson", list("aaabbb"))
    assert found.r == pytest.approx(1)
    assert found.p_value == pytest.approx(2 / 36), "3! 3! orders, of which the best and its mirror are as large"


def test_leaving_one_out_shows_what_hangs_on_one_point() -> None:
    x, y = [0, 1, 2, 3, 100], [2, 1, 3, 2, 100]
    found = correlation(x, y, "pearson")
    by_hand = [stats.pearsonr(np.delete(x, i), np.delete(y, i)).statistic for i in range(5)]
    assert (found.leave_one_out_lower, found.leave_one_out_upper) == pytest.approx((min(by_hand), max(by_hand)))
    assert found.leave_one_out_lower < 0.5 < 0.99 < found.r


def test_few_points_have_a_coefficient_and_nothing_else() -> None:
    found = correlation([1, 2, 3], [1, 2, 4], "spearman")
    assert (found.r, found.lower, found.p_value) == (pytest.approx(1), None, None)
    assert "too few points (3)" in found.note
    assert correlation([], [], "pearson", []).n_points == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_uncorrelated_points_cover_zero(kind, grouped) -> None:
    rng = np.random.default_rng(11)
    group = list("aaaabbbbb") if grouped else None
    shift = 9.0 * np.array([0] * 4 + [1] * 5) if grouped else 0.0
    found = [correlation(rng.normal(size=9) + shift, rng.normal(size=9) + shift, kind, group) for _ in range(1000)]
    covered = np.mean([f.lower <= 0 <= f.upper for f in found])
    assert 0.92 < covered < 0.98
    for share in (0.05, 0.1, 0.2):  # p of ranks has steps
        assert share - 0.06 < np.mean([f.p_value <= share for f in found]) < share + 0.05


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_ranks_are_scipys(values) -> None:
    assert ranks(np.array(values, float)).tolist() == stats.rankdata(values).tolist()


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([0.9, None, 0.6]) == [1.0, None, 1.0]
    assert holm_adjusted([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p) -> None:
    found = holm_adjusted(p)
    for own, corrected in zip(p, found, strict=True):
        assert own <= corrected <= min(1.0, own * len(p)) + 1e-12 or math.isclose(corrected, max(found))
    assert min(found) == pytest.approx(min(1.0, min(p) * len(p)))
    assert [found[i] for i in np.argsort(p, kind="stable")] == sorted(found)
