"""The mean over seeds of what each seed has measured on the same documents: coverage, and more seeds find more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from peftodyssey.stats.mean_over_seeds import mean_over_seeds

HALF = stats.norm.ppf(0.975)  # of an interval over documents whose standard error is 1


def means(repetitions, seeds, ratio, effect=0.0):
    """Means with a documents' error of variance 1, alike for all seeds, and one of `ratio` for each seed."""
    rng = np.random.default_rng(seeds * 100 + int(4 * ratio))
    values = effect + rng.normal(0, 1, (repetitions, 1)) + rng.normal(0, math.sqrt(ratio), (repetitions, seeds))
    return [mean_over_seeds(list(row), list(row - HALF), list(row + HALF)) for row in values]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.25, 1, 4, 16])
def test_intervals_cover_and_a_null_is_not_called_different(seeds, ratio):
    found = means(4000, seeds, ratio)
    assert 0.94 <= np.mean([one.lower <= 0 <= one.upper for one in found]) <= 0.99
    assert {one.covers for one in found} == {"documents and seeds"}


@pytest.mark.parametrize("ratio", [0.25, 1, 4])
def test_more_seeds_find_a_planted_effect_more_often(ratio):
    power = [np.mean([one.lower > 0 for one in means(2000, seeds, ratio, effect=2.5)]) for seeds in (2, 3, 5, 10)]
    assert power == sorted(power)


def test_one_seed_has_its_own_interval_over_documents():
    one = mean_over_seeds([0.2], [0.1], [0.4])
    assert (one.estimate, one.lower, one.upper, one.covers) == (
        0.2,
        pytest.approx(0.1),
        pytest.approx(0.4),
        "documents",
    )
    alike = mean_over_seeds([0.2, 0.2], [0.1, 0.1], [0.4, 0.4])
    assert (alike.lower, alike.upper) == (pytest.approx(0.1), pytest.approx(0.4))


def test_the_spread_between_seeds_is_added_by_students_t():
    values = [0.1, 0.3, 0.2, 0.5]
    exact = mean_over_seeds(values, values, values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (exact.lower, exact.upper) == pytest.approx(expected)


def test_without_an_interval_of_every_seed_there_is_none():
    found = mean_over_seeds([0.1, 0.2, 0.3], [0.0, None, 0.1], [0.2, None, 0.4])
    assert (found.estimate, found.lower, found.upper) == (pytest.approx(0.2), None, None)
