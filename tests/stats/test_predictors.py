"""Forecasts of forgetting: the monotone fit is SciPy's, a planted relation across methods is found, noise is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from peftodyssey.measures.predictors.collect import rows
from peftodyssey.measures.predictors.compute import forecasts, spearman
from peftodyssey.stats.isotonic import isotonic


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_and_the_rank_correlation_are_scipys(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.permutation(30).astype(float), rng.normal(size=30)
    order = np.argsort(x)
    expected = optimize.isotonic_regression(y[order]).x
    np.testing.assert_allclose(isotonic(x, y, x[order]), expected, atol=1e-12)
    tied = np.round(y, 0)
    assert spearman(x, tied) == pytest.approx(scipy_stats.spearmanr(x, tied).statistic, abs=1e-12)


def test_points_with_one_place_are_their_mean():
    x, y = np.array([1.0, 1.0, 2.0, 3.0]), np.array([0.0, 4.0, 1.0, 5.0])
    # (mean 2 with weight 2) and 1 are out of order: together 5/3
    np.testing.assert_allclose(isotonic(x, y, np.array([0.0, 1.0, 2.0, 2.5, 9.0])), [5 / 3, 5 / 3, 5 / 3, 10 / 3, 5.0])


def results(seed, kl_foretells):
    """Cells of three methods at several rates and seeds; forgetting is quadratic in what foretells it, with noise.

    The length of the update foretells it within a method alone: each method has a length of its own.
    """
    rng, found = np.random.default_rng(seed), []
    for method, scale in (("full", 1.0), ("lora", 4.0), ("qlora", 9.0)):
        for strength in np.linspace(0.1, 1.0, 8):
            kl = strength if kl_foretells else rng.uniform()
            found.append(
                {
                    "cell": "c",
                    "recipe": "r",
                    "model": "m",
                    "revision": None,
                    "domain": "d",
                    "method": method,
                    "forgetting": strength**2 + 0.01 * rng.normal() + (0.5 if method == "qlora" else 0.0),
                    "forgetting_storage": 0.5 if method == "qlora" else None,
                    "kl_target": kl,
                    "update_norm_relative": scale * strength,
                }
            )
    return found


def skill(found, predictor, left_out=None):
    (value,) = [row["skill"] for row in found if (row["predictor"], row["left_out"]) == (predictor, left_out)]
    return value


def test_a_relation_that_holds_across_methods_is_told_from_one_within_each():
    found = rows(results(0, kl_foretells=True))
    assert skill(found, "kl_target") > 0.95
    assert {row["left_out"] for row in found} == {"full", "lora", "qlora", None}
    assert skill(found, "update_norm_relative") < 0.5
    assert next(row["cells"] for row in found if row["left_out"] is None) == 24


def test_noise_foretells_nothing():
    skills = [skill(rows(results(seed, kl_foretells=False)), "kl_target") for seed in range(20)]
    assert np.mean(skills) < 0.05


def test_one_method_alone_is_not_foretold():
    assert forecasts([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], ["full"] * 5) == []
