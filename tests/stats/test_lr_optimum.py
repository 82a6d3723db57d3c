"""The interpolated learning rate against planted parabolas: exact without noise, covered with it."""

import math

import numpy as np
import pytest

from peftodyssey.stats.lr_optimum import FLAT, lr_optimum
from peftodyssey.stats.lr_selection import Candidate, best_rate, edge, neighbours, pooled

GRID = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RESAMPLES = 200


def parabola(rates, best, factor_two_cost, floor=3.0):
    return floor + factor_two_cost * (np.log(np.asarray(rates) / best) / math.log(2)) ** 2


@pytest.mark.parametrize("rates", [(1e-4, 3e-4, 1e-3), (1e-4, 2e-4, 2e-3), (1e-4, 9e-4, 1e-3)])
def test_without_noise_the_vertex_and_the_curvature_are_those_planted(rates):
    best = 0.95 * rates[1]
    losses = np.broadcast_to(parabola(rates, best, 0.02)[None, :, None], (3, 3, 3))
    found = lr_optimum(rates, losses, 100.0, intervals=True)
    square, slope, _ = np.polyfit(np.log(rates), losses[0, :, 0], 2)  # the outside oracle
    assert found.lr == pytest.approx(math.exp(-slope / (2 * square)), rel=1e-6)
    assert found.lr == pytest.approx(best, rel=1e-9)
    assert found.factor_two_cost == pytest.approx(0.02, rel=1e-9)
    assert found.factor_two_cost == pytest.approx(square * math.log(2) ** 2, rel=1e-6)
    assert (found.lr_lo, found.lr_hi) == pytest.approx((best, best), rel=2e-3)


def test_a_flat_curve_has_an_open_interval():
    rng = np.random.default_rng(0)
    losses = np.broadcast_to(3.0 + 0.01 * rng.standard_normal((1, 3, 3)), (2, 3, 3)).copy()
    losses[:, 1] -= losses[0].mean(1).max() - losses[0].mean(1).min() + 1e-6
    found = lr_optimum((1e-4, 3e-4, 1e-3), losses, 100.0, intervals=True)
    assert (found.lr_lo, found.lr_hi, found.note) == (None, None, FLAT)
    assert found.factor_two_cost_lo < 0 < found.factor_two_cost_hi
    assert lr_optimum((1e-4, 3e-4, 1e-3), losses, 5.0, intervals=False).factor_two_cost_lo is None


def simulated(rng, best, n_seeds, seed_std, cluster_std, cost=0.02):
    """Losses [1 + resamples, rates, seeds] of GRID: what seeds share, what each cell has, and clusters with a slope."""
    clean = parabola(GRID, best, cost)
    own = seed_std * rng.standard_normal((len(GRID), n_seeds)) + 0.05 * rng.standard_normal(n_seeds)
    of_text = cluster_std * rng.standard_normal((len(GRID), 1))  # the text is a sample, and so is each resample of it
    again = cluster_std * rng.standard_normal((RESAMPLES, len(GRID), 1))
    text = clean[:, None] + own + of_text
    return np.concatenate([text[None], text[None] + again])


def one_search(losses):
    """The choice and the interval that the project makes of simulated losses; None where the rate is unresolved."""
    rows = [
        Candidate("g", lr, seed, losses[0, i, seed]) for i, lr in enumerate(GRID) for seed in range(losses.shape[2])
    ]
    means = pooled(rows)
    best = best_rate(means)
    if edge(best, GRID, means):
        return None
    three = (*neighbours(best, GRID), best)
    rates = tuple(sorted(three))
    return lr_optimum(rates, losses[:, [GRID.index(rate) for rate in rates]], 1e6, intervals=True)


def coverage(n_seeds, seed_std, cluster_std, n, seed):
    rng = np.random.default_rng(seed)
    covered = open_ = 0
    for _ in range(n):
        best = math.exp(rng.uniform(math.log(2e-4), math.log(1.5e-3)))
        found = one_search(simulated(rng, best, n_seeds, seed_std, cluster_std))
        assert found is not None, "the planted optimum lies far inside of the grid"
        open_ += found.lr_lo is None
        covered += found.lr_lo is not None and found.lr_lo <= best <= found.lr_hi
    return covered, open_


@pytest.mark.parametrize(
    ("n_seeds", "seed_std", "cluster_std"), [(3, 0.004, 0.0005), (3, 0.004, 0.002), (5, 0.002, 0.004)]
)
def test_the_interval_covers_the_planted_optimum(n_seeds, seed_std, cluster_std):
    covered, open_ = coverage(n_seeds, seed_std, cluster_std, 500, seed=2)
    assert open_ == 0
    assert 0.93 <= covered / 500 <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize(("seed_std", "cluster_std"), [(0.004, 0.001), (0.004, 0.004), (0.001, 0.004), (0.01, 0.001)])
def test_the_interval_covers_the_planted_optimum_in_many_simulations(n_seeds, seed_std, cluster_std):
    covered, open_ = coverage(n_seeds, seed_std, cluster_std, 4000, seed=3)
    assert 0.93 <= covered / (4000 - open_) <= 0.97
    assert open_ <= 0.1 * 4000
