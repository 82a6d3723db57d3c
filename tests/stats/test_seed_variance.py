"""The noise between seeds against SciPy: pooled variance, Student's t, the two-sample interval."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.stats.seed_variance import NoiseFloor, least_significant_difference, noise_floor
from peftodyssey.stats.t_distribution import t_quantile


@given(st.integers(1, 400), st.floats(0.501, 0.9999))
def test_quantiles_of_student_are_scipys(freedom, p):
    assert t_quantile(p, freedom) == pytest.approx(scipy.stats.t.ppf(p, freedom), rel=1e-9)


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_floor_is_the_variance_within_groups_of_an_anova(groups):
    found = noise_floor(groups)
    freedom = sum(len(group) - 1 for group in groups)
    assert found.degrees_of_freedom == freedom
    assert found.n_groups == sum(len(group) > 1 for group in groups)
    if not freedom:
        assert found.std is None
    else:
        within = sum(len(group) * np.var(group) for group in groups) / freedom
        assert found.std == pytest.approx(within**0.5, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 3)])
def test_the_least_difference_is_the_half_width_of_scipys_two_sample_interval(n, m):
    rng = np.random.default_rng(n)
    one, other = rng.normal(size=n), rng.normal(1, 2, m)
    theirs = scipy.stats.ttest_ind(one, other).confidence_interval(0.95)
    assert least_significant_difference(noise_floor([one, other]), n, m) == pytest.approx(
        (theirs.high - theirs.low) / 2
    )


def test_one_seed_measures_no_noise():
    assert noise_floor([[0.1], [0.2], []]) == NoiseFloor(None, 0, 0)
    assert least_significant_difference(noise_floor([[0.1], [0.2]]), 1, 1) is None


def test_a_setting_far_away_does_not_widen_the_floor():
    near = noise_floor([[0.1, 0.2, 0.3], [0.2, 0.4, 0.3]])
    far = noise_floor([[0.1, 0.2, 0.3], [100.2, 100.4, 100.3]])
    assert far.std == pytest.approx(near.std)
    assert near.std == pytest.approx(0.1)
    assert (near.degrees_of_freedom, near.n_groups) == (4, 2)
