"""Intervals over repetitions and documents hold what they promise."""

import numpy as np
import pytest
from scipy import stats

from peftodyssey.stats.two_way_interval import ONE, crossed, quantile


def sample(rng, repetitions=5, documents=40, of_repetition=0.3, of_document=1.0, of_both=0.5, mean=0.2):
    """Values per token with three kinds of effects, documents of unequal length, as sums."""
    tokens = rng.integers(50, 257, documents).astype(float)
    effect = mean + of_repetition * rng.standard_normal((repetitions, 1)) + of_document * rng.standard_normal(documents)
    return (effect + of_both * rng.standard_normal((repetitions, documents))) * tokens, tokens


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.5, 4.0, 9.3, 30.0, 1e6])
def test_quantiles_are_students_and_never_too_short(freedom):
    assert quantile(0.975, freedom) >= stats.t.ppf(0.975, freedom) - 1e-9
    assert quantile(0.975, int(freedom)) == pytest.approx(stats.t.ppf(0.975, int(freedom)), rel=3e-3)


def test_equal_repetitions_and_lengths_are_the_t_test_over_documents():
    values = np.random.default_rng(0).standard_normal(50)
    found = crossed(np.tile(values * 10, (4, 1)), np.full(50, 10.0))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.estimate == pytest.approx(values.mean())
    assert (found.lo, found.hi) == (pytest.approx(expected.low, rel=2e-3), pytest.approx(expected.high, rel=2e-3))


def test_equal_documents_are_the_t_test_over_repetitions():
    values = np.random.default_rng(0).standard_normal((5, 1))
    found = crossed(values * np.full(50, 10.0), np.full(50, 10.0))
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert (found.lo, found.hi) == (pytest.approx(expected.low, rel=5e-3), pytest.approx(expected.high, rel=5e-3))


def test_one_repetition_is_over_documents_alone_and_few_documents_have_no_interval():
    sums, tokens = sample(np.random.default_rng(0))
    assert crossed(sums[:1], tokens).note == ONE
    assert crossed(sums[:, :20], tokens[:20]).lo is None
    assert "too few documents" in crossed(sums[:, :20], tokens[:20]).note


@pytest.mark.parametrize(
    "effects",
    [(0.3, 1.0, 0.5), (1.0, 0.1, 0.1), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)],
    ids=["all", "repetitions", "documents", "rest"],
)
def test_intervals_cover_the_truth(effects):
    """1000 samples at 95 %: between 93.4 % and, where the parts cannot be told apart, all of them."""
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        found = crossed(*sample(rng, 5, 40, *effects))
        covered.append(found.lo <= 0.2 <= found.hi)
    assert 0.934 <= np.mean(covered) <= 0.999
