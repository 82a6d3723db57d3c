"""Forgetting at equal learning under noise of seeds and clusters: planted curves, and a text with nothing to gain."""

from __future__ import annotations

import numpy as np
import pytest

from peftodyssey.measures.contrast.compute import MethodMeans, ends, equal_learning
from peftodyssey.measures.contrast.differences import Clusters, differences
from peftodyssey.measures.contrast.table import BUDGETS, EQUAL_LEARNING
from peftodyssey.stats.cluster_resampling import ClusterSums, resampled_means
from peftodyssey.stats.contrast import contrasts

CLUSTERS, SEEDS, RESAMPLES = 60, 3, 250
OWN = Clusters(CLUSTERS, CLUSTERS)


def resampled(rng, means, draw, shared, own=0.05, seeds_sd=0.004):
    """Means [1 + resamples, rates, seeds] of losses with these expectations [rates]; `draw` seeds the clusters."""
    shape = (CLUSTERS, len(means), SEEDS)
    values = np.array(means)[None, :, None] + shared[:, None, None] + rng.normal(0, own, shape)
    values = values + rng.normal(0, seeds_sd, (1, *shape[1:]))
    text = ClusterSums(values.reshape(CLUSTERS, -1), np.ones(CLUSTERS))
    return resampled_means(text, draw, RESAMPLES).reshape(-1, len(means), SEEDS)


def method(rng, label, rates, learning, forgetting, number, shared):
    """A method with planted learning and forgetting at each of its rates."""
    loss = [-value for value in learning]
    valid = resampled(rng, loss, [number, 1], shared[1])
    learned = -resampled(rng, loss, [number, 0], shared[0])
    forgot = resampled(rng, forgetting, [number, 2], shared[2])
    return MethodMeans(label, rates, rates, rates, valid, learned, forgot, np.zeros((RESAMPLES + 1, 2)))


def mean_at_equal_learning(rng, number, first, second):
    shared = rng.normal(0, 0.1, (3, CLUSTERS))  # what every cell has in common
    a, b = (method(rng, label, *given, number, shared) for label, given in (("lora", first), ("full", second)))
    found = differences([a], [b], OWN, OWN, SEEDS)
    return next(one for one in found if one.point.at == EQUAL_LEARNING and one.point.level is None)


def curve(factor, learning, rates):
    return rates, learning, [factor * value**2 for value in learning]


def outcomes(repetitions, first, second):
    """The contrasts of repetitions, None where the methods are not comparable."""
    rng, found = np.random.default_rng(7), []
    for number in range(repetitions):
        one = mean_at_equal_learning(rng, number, first, second)
        comparable = one.parts is not None and not one.reasons
        found.append(contrasts([one.parts], 0.01)[0] if comparable else None)
    return found


RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def test_methods_on_one_convex_curve_do_not_differ():
    found = outcomes(250, curve(1.6, (0.08, 0.16, 0.31, 0.28), RATES), curve(1.6, (0.1, 0.2, 0.3, 0.2), RATES))
    assert None not in found
    assert np.mean([one.lower <= 0 <= one.upper for one in found]) >= 0.92
    assert abs(np.mean([one.estimate for one in found])) < 0.002


def test_a_flatter_curve_is_found():
    found = outcomes(60, curve(1.0, (0.08, 0.16, 0.31, 0.28), RATES), curve(2.0, (0.1, 0.2, 0.3, 0.2), RATES))
    levels = np.array([0.25, 0.5, 0.75]) * 0.3
    assert np.mean([one.estimate for one in found]) == pytest.approx(-np.mean(levels**2), abs=0.003)
    assert np.mean([one.verdict == "less" for one in found]) > 0.6


def test_a_text_with_nothing_to_gain_is_not_comparable():
    flat = (RATES, (0.0,) * 4, (0.01, 0.02, 0.05, 0.1))
    found = outcomes(200, flat, flat)
    assert np.mean([one is None for one in found]) >= 0.95


@pytest.mark.slow
def test_coverage_at_equal_learning_in_4000_repetitions():
    found = outcomes(4000, curve(1.6, (0.08, 0.16, 0.31, 0.28), RATES), curve(1.6, (0.1, 0.2, 0.3, 0.2), RATES))
    covered = np.mean([one.lower <= 0 <= one.upper for one in found if one is not None])
    assert 0.93 <= covered <= 0.98


def over_budgets(rng, label, reached, factor, number, shared):
    """A method that reaches these learnings at its middle rate, one for each budget, and forgets `factor` L^2."""
    means = []
    for budget, learning in enumerate(reached):
        values = (0.8 * learning, learning, 0.7 * learning)  # the outer rates are worse on both axes
        forgets = (1.3 * factor * learning**2, factor * learning**2, 1.6 * factor * learning**2)
        one = method(rng, label, RATES[:3], values, forgets, number, shared)
        means.append(MethodMeans(**{**vars(one), "budget": f"{budget + 1}k tokens"}))
    return means


def outcomes_over_budgets(repetitions, factors, reached=((0.1, 0.2, 0.31), (0.08, 0.16, 0.3))):
    rng, found = np.random.default_rng(11), []
    for number in range(repetitions):
        shared = rng.normal(0, 0.1, (3, CLUSTERS))
        a, b = (
            over_budgets(rng, label, own, factor, number, shared)
            for label, own, factor in zip(("lora", "full"), reached, factors, strict=True)
        )
        mean = next(one for one in differences(a, b, OWN, OWN, SEEDS) if one.point.at == EQUAL_LEARNING)
        assert mean.point.path == BUDGETS
        if not mean.reasons:  # by chance an outer rate is the best one of a budget
            found.append(contrasts([mean.parts], 0.01)[0])
    assert len(found) > 0.97 * repetitions
    return found


def test_paths_over_budgets_on_one_convex_curve_do_not_differ():
    found = outcomes_over_budgets(80, (1.6, 1.6))
    assert np.mean([one.lower <= 0 <= one.upper for one in found]) >= 0.88
    assert abs(np.mean([one.estimate for one in found])) < 0.002


def test_a_planted_difference_over_budgets_is_found():
    found = outcomes_over_budgets(30, (1.0, 2.0))
    levels = np.array([0.25, 0.5, 0.75]) * 0.3
    assert np.mean([one.estimate for one in found]) == pytest.approx(-np.mean(levels**2), abs=0.004)
    assert np.mean([one.verdict == "less" for one in found]) > 0.6


@pytest.mark.slow
def test_coverage_over_budgets_in_1000_repetitions():
    found = outcomes_over_budgets(1000, (1.6, 1.6))
    assert 0.93 <= np.mean([one.lower <= 0 <= one.upper for one in found]) <= 0.985


def test_the_rate_of_a_budget_is_selected_anew_in_each_resample():
    """Two rates, of which one is best on the text itself and the other in the second of two resamples."""
    valid = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])[:, :, None]
    learning = np.array([[0.1, 0.2]] * 3)[:, :, None]
    one = MethodMeans(
        "lora", RATES[:2], RATES[:2], RATES[:2], valid, learning, 10 * learning, np.zeros((3, 2)), "1k tokens"
    )
    other = MethodMeans(
        "lora",
        RATES[:2],
        RATES[:2],
        RATES[:2],
        valid[:, ::-1],
        2 * learning,
        30 * learning,
        np.zeros((3, 2)),
        "2k tokens",
    )
    path = ends([one, other], BUDGETS)
    np.testing.assert_allclose(path[:, 0, 0], [[0.1, 1.0], [0.1, 1.0], [0.2, 2.0]])
    np.testing.assert_allclose(path[:, 1, 0], [[0.4, 6.0], [0.4, 6.0], [0.2, 3.0]])
    same = equal_learning([one, other], [one, other], BUDGETS)
    np.testing.assert_array_equal(same.differences, 0)
