"""Intervals over repetitions and documents hold what they promise."""

import numpy as np
import pytest
from scipy import stats

from peftodyssey.stats.two_way_interval import ONE_REPETITION, conservative_t_quantile, two_way_interval


def sample(rng, repetitions=5, documents=40, of_repetition=0.3, of_document=1.0, of_both=0.5, mean=0.2):
    """Values per token with three kinds of effects, documents of unequal length, as sums."""
    tokens = rng.integers(50, 257, documents).astype(float)
    effect = mean + of_repetition * rng.standard_normal((repetitions, 1)) + of_document * rng.standard_normal(documents)
    return (effect + of_both * rng.standard_normal((repetitions, documents))) * tokens, tokens


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.5, 4.0, 9.3, 30.0, 1e6])
def test_quantiles_are_students_and_never_too_short(freedom):
    assert conservative_t_quantile(0.975, freedom) >= stats.t.ppf(0.975, freedom) - 1e-9
    assert conservative_t_quantile(0.975, int(freedom)) == pytest.approx(stats.t.ppf(0.975, int(freedom)), rel=3e-3)


def test_equal_repetitions_and_lengths_are_the_t_test_over_documents():
    values = np.random.default_rng(0).standard_normal(50)
    found = two_way_interval(np.tile(values * 10, (4, 1)), np.full(50, 10.0))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.estimate == pytest.approx(values.mean())
    assert (found.lower, found.upper) == (pytest.approx(expected.low, rel=2e-3), pytest.approx(expected.high, rel=2e-3))


def test_equal_documents_are_the_t_test_over_repetitions():
    values = np.random.default_rng(0).standard_normal((5, 1))
    found = two_way_interval(values * np.full(50, 10.0), np.full(50, 10.0))
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert (found.lower, found.upper) == (pytest.approx(expected.low, rel=5e-3), pytest.approx(expected.high, rel=5e-3))


def test_one_repetition_is_over_documents_alone_and_few_documents_have_no_interval():
    sums, tokens = sample(np.random.default_rng(0))
    assert two_way_interval(sums[:1], tokens).note == ONE_REPETITION
    assert two_way_interval(sums[:, :20], tokens[:20]).lower is None
    assert "too few documents" in two_way_interval(sums[:, :20], tokens[:20]).note


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
        found = two_way_interval(*sample(rng, 5, 40, *effects))
        covered.append(found.lower <= 0.2 <= found.upper)
    assert 0.934 <= np.mean(covered) <= 0.999
