"""Multiple comparisons with the best: Dunnett's quantile, bounds that hold, and treatments that are too bad."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from peftodyssey.stats.multiple_comparisons import compared_with_best, dunnett_quantile

# Dunnett 1955, table 1a: one-sided, 5 %
PUBLISHED = {(1, 10): 1.81, (2, 10): 2.15, (3, 10): 2.34, (4, 10): 2.47, (5, 10): 2.56, (2, 5): 2.44, (4, 20): 2.30}


@pytest.mark.parametrize("comparisons", [1, 2, 6])
@pytest.mark.parametrize("degrees", [2, 60])
def test_the_quantile_is_that_of_the_multivariate_t_distribution(comparisons, degrees):
    found = dunnett_quantile(comparisons, degrees)
    if comparisons == 1:
        assert found == pytest.approx(stats.t.ppf(0.95, degrees), rel=1e-5)
        return
    shape = np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons)
    joint = stats.multivariate_t(shape=shape, df=degrees, seed=0)
    assert joint.cdf(np.full(comparisons, found)) == pytest.approx(0.95, abs=3e-4)


@pytest.mark.parametrize(("case", "value"), PUBLISHED.items())
def test_the_quantile_is_the_published_one(case, value):
    assert dunnett_quantile(*case) == pytest.approx(value, abs=0.006)


def test_bounds_by_hand():
    values = np.array([[1.0, 1.2, 1.1], [1.1, 1.0, 1.15], [3.15, 3.1, 3.0]])
    found = compared_with_best(values)
    assert (found.degrees_of_freedom, found.pooled) == (4, True)
    residuals = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    width = dunnett_quantile(2, 4) * np.sqrt(2 / 3 * np.square(residuals).sum() / 4)
    means = values.mean(1)
    assert found.losses[0].estimate == pytest.approx(means[0] - means[1])
    assert found.losses[0].upper == pytest.approx(means[0] - means[1] + width)
    assert found.losses[0].lower == pytest.approx(means[0] - means[1] - width)
    assert found.losses[2].lower == 0  # not the best
    assert found.losses[2].upper == pytest.approx(means[2] - means[1] + width)


def rates(repetitions, seeds, losses, spread, margin=1.0):
    """Shares of samples in which a treatment one margin or more worse is enough, and the best one is within bounds."""
    rng = np.random.default_rng(seeds)
    true = np.asarray(losses, np.float64)
    to_best = np.array([true[i] - np.delete(true, i).min() for i in range(len(true))])
    wrong, held, found = [], [], []
    for _ in range(repetitions):
        of_seed = rng.normal(0, 3, seeds)
        values = true[:, None] + of_seed + np.asarray(spread)[:, None] * rng.normal(size=(len(true), seeds))
        compared = compared_with_best(values).losses
        enough = np.array([loss.upper <= margin for loss in compared])
        wrong.append(enough[to_best >= margin].any())
        found.append(enough[to_best < margin].any())
        bounds = [(loss.lower, loss.upper) for loss in compared]
        held.append(all(low <= d <= high for d, (low, high) in zip(to_best, bounds, strict=True)))
    return float(np.mean(wrong)), float(np.mean(held)), float(np.mean(found))


WORSE_BY_ONE = (0, 1, 1, 1, 1, 1)
SPREADS = {"small": [0.2] * 6, "large": [1.0] * 6, "unlike": [0.05] * 5 + [1.0], "best unlike": [1.0] + [0.05] * 5}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS)
def test_ranks_one_margin_worse_are_not_enough(seeds, spread):
    wrong, held, _ = rates(400, seeds, WORSE_BY_ONE, SPREADS[spread])
    assert wrong <= 0.05 + 0.033  # three standard errors of 400 repetitions
    assert held >= 0.95 - 0.033


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS)
def test_ranks_one_margin_worse_are_not_enough_in_4000_repetitions(seeds, spread):
    wrong, held, _ = rates(4000, seeds, WORSE_BY_ONE, SPREADS[spread])
    assert wrong <= 0.05
    assert held >= 0.945


def test_more_seeds_find_more_ranks_that_are_enough():
    losses, spread = (0, 0, 0.2, 1, 1, 1), [0.3] * 6
    few, more, many = (rates(300, seeds, losses, spread)[2] for seeds in (3, 5, 10))
    assert few < more <= many
