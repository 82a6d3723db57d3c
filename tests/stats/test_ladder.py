"""Slopes, steps, shapes and lowest rungs of a ladder: planted ones are found, and intervals hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from peftodyssey.stats import contrast, ladder
from peftodyssey.stats.cluster_resampling import ClusterSums, resampled_means
from peftodyssey.stats.contrast import LESS, MORE, NOT_COMPARABLE, ContrastResult, result_of

TOKENS = tuple(16_000_000 * 4**rung for rung in range(7))
CLUSTERS, SPREAD = 60, 0.1
CLUSTER_VARIANCE = SPREAD**2 / CLUSTERS  # of a mean, from what clusters have of their own on each rung
RATIOS = (0.25, 1, 4, 16)  # variance of one seed on one rung over that


def planted(rng, seeds, ratio, means, *, of_seed_slope=0.0, largest=1.0, resamples=200):
    """A ladder with planted means. Clusters and seeds have effects of their own, common to all rungs and on each.

    `largest`: the standard deviation of seeds on the last rung over that on the first. `of_seed_slope`: standard
    deviation of the seeds' own slopes, in that of a seed on a rung.
    """
    rungs = len(means)
    tokens = rng.integers(50, 200, CLUSTERS).astype(np.float64)
    of_cluster = rng.normal(0, SPREAD, (CLUSTERS, 1, rungs)) + rng.normal(0, SPREAD, (CLUSTERS, 1, 1))
    std = math.sqrt(ratio * CLUSTER_VARIANCE)
    of_seed = std * (rng.normal(size=(seeds, rungs)) * np.linspace(1, largest, rungs) + rng.normal(size=(seeds, 1)))
    of_seed += of_seed_slope * std * rng.normal(size=(seeds, 1)) * np.linspace(-1, 1, rungs)
    sums = (np.asarray(means) + of_cluster + of_seed) * tokens[:, None, None]
    text = ClusterSums(sums.reshape(CLUSTERS, -1), tokens)
    drawn = resampled_means(text, [int(rng.integers(1 << 30))], resamples)
    return ladder.Ladder(TOKENS[:rungs], drawn.reshape(-1, seeds, rungs), text.effective_clusters)


def slope_of(given: ladder.Ladder) -> ContrastResult:
    """The slope with its interval, whether or not the line is rejected."""
    weights = ladder.slope_weights(given.tokens)
    parts = ladder.contrast_of(given, weights)
    (unit,) = ladder._seed_variances([given])
    return result_of(parts, ladder._of_contrast(parts, weights, unit), ladder.MARGIN_NATS, 0.95)


def rates(repetitions, seeds, ratio, rungs=4, **options):
    """Shares in which slope, steps and lowest rung of a null are covered, the line rejected, the slope called."""
    rng = np.random.default_rng(seeds * 100 + int(4 * ratio) + rungs)
    rows = []
    for _ in range(repetitions):
        given = planted(rng, seeds, ratio, np.zeros(rungs), **options)
        (found,) = ladder.describe([given])
        slope = slope_of(given)
        rows.append(
            (
                slope.lower <= 0 <= slope.upper,
                np.mean([step.result.lower <= 0 <= step.result.upper for step in found.steps]),
                given.tokens[1] in ladder.lowest_rungs(given),
                found.slope is None,
                found.slope is not None and found.slope.verdict in (LESS, MORE),
            )
        )
    return np.mean(rows, 0)


def test_the_slope_is_that_of_least_squares_and_contrasts_are_orthonormal():
    given = planted(np.random.default_rng(0), 3, 1, [0.1, 0.3, 0.2, 0.5])
    means = given.values[0].mean(0)
    assert slope_of(given).estimate == pytest.approx(np.polyfit(np.log10(given.tokens), means, 1)[0])
    for tokens in (TOKENS, (16, 100, 101, 5000)):
        units = ladder.unit_contrasts(tokens)
        np.testing.assert_allclose(units @ units.T, np.eye(len(tokens) - 1), atol=1e-12)
        np.testing.assert_allclose(units.sum(1), 0, atol=1e-12)
        weights = ladder.slope_weights(tokens)
        assert abs(units[0] @ weights) == pytest.approx(np.linalg.norm(weights))  # degree 1 is the slope


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_the_parts_of_a_contrast_are_those_of_its_values(seeds):
    given = planted(np.random.default_rng(7), seeds, 1, [0.1, 0.3, 0.2, 0.5])
    given = ladder.Ladder(given.tokens, given.values + 0.01 * np.sin(given.values * 1e4), given.clusters)
    for weights in (*ladder.unit_contrasts(given.tokens), ladder.slope_weights(given.tokens)):
        found, expected = ladder.contrast_of(given, weights), contrast.parts(given.values @ weights, given.clusters)
        for one, other in zip(vars(found).values(), vars(expected).values(), strict=True):
            assert one == pytest.approx(other, rel=1e-9, nan_ok=True)


def test_the_v_of_a_known_ladder_is_a_v():
    """Cost of noise with gamma 0.4 on the annealed rungs of the bundled model, as it was measured."""
    rng = np.random.default_rng(1)
    means = [0.0801, 0.0643, 0.0462, 0.0721]
    for _ in range(20):
        given = planted(rng, 5, 0.5, means)
        given = ladder.Ladder(given.tokens, means + (given.values - means) * 0.1, given.clusters)
        (found,) = ladder.describe([given])
        assert (found.shape, found.turn_tokens, found.slope) == (ladder.VALLEY, TOKENS[2], None)
        assert [step.sign for step in found.steps] == [-1, -1, 1]
        assert found.lack_of_fit > 1
        assert ladder.lowest_rungs(given) == (TOKENS[2],)
        (ends,) = ladder.describe([ladder.Ladder(TOKENS[1:4], given.values[:, :, 1:], given.clusters)])
        assert ends.shape == ladder.VALLEY  # also without the first rung


@pytest.mark.parametrize(
    ("means", "shape"),
    [
        ([0, 1, 1.1, 1.2], ladder.RISES),
        ([3, 1, 0.9, 0.8], ladder.FALLS),
        ([0, 2, 2.5, 0], ladder.PEAK),
        ([0, 1, 0, 1], ladder.UP_AND_DOWN),
    ],
)
def test_what_is_not_a_line_has_a_shape(means, shape):
    (found,) = ladder.describe([planted(np.random.default_rng(2), 3, 1, means)])
    assert (found.shape, found.slope) == (shape, None)


def test_a_planted_line_is_a_slope():
    means = 0.3 * np.log10(np.array(TOKENS[:4]) / TOKENS[0])
    (found,) = ladder.describe([planted(np.random.default_rng(3), 3, 1, means)])
    assert (found.shape, found.turn_tokens) == ("", None)
    assert found.slope.verdict == MORE
    assert found.slope.estimate == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_intervals_over_clusters_and_no_verdict(seeds):
    means = 0.3 * np.log10(np.array(TOKENS[:3]) / TOKENS[0])
    (found,) = ladder.describe([planted(np.random.default_rng(4), seeds, 0, means)])
    assert (found.slope.verdict, found.slope.covers) == (NOT_COMPARABLE, "clusters")
    assert {step.result.verdict for step in found.steps} == {NOT_COMPARABLE}


def test_values_that_do_not_vary_have_intervals_without_width():
    """Rounding gives a variance of 0 either sign."""
    values = np.broadcast_to(np.array([0.1, 0.2, 0.3, 0.7]) / 3, (201, 3, 4))
    (found,) = ladder.describe([ladder.Ladder(TOKENS[:4], values * (1 + 1e-16 * np.arange(3)[:, None]), 40.0)])
    assert all(step.result.upper - step.result.lower < 1e-12 for step in found.steps)
    assert (found.shape, ladder.lowest_rungs(ladder.Ladder(TOKENS[:4], values, 40.0))) == (ladder.RISES, TOKENS[:1])


def test_two_rungs_have_a_slope_and_no_test_of_the_line():
    (found,) = ladder.describe([planted(np.random.default_rng(5), 3, 1, [0, 1])])
    assert (found.lack_of_fit, len(found.steps)) == (None, 1)
    assert found.slope.estimate == pytest.approx(found.steps[0].result.estimate / math.log10(4))


def test_variances_are_pooled_over_rungs_and_ladders_where_they_are_alike():
    rng = np.random.default_rng(6)
    one, other, noisy = (planted(rng, 3, ratio, np.zeros(4)) for ratio in (4, 4, 4000))
    (alone,) = ladder.describe([one])
    assert alone.slope.pooled_settings == 3  # the orthogonal contrasts of four rungs
    together = ladder.describe([one, other])
    assert {found.slope.pooled_settings for found in together} == {6}
    apart = ladder.describe([one, noisy])
    assert apart[0] == alone


def test_more_seeds_find_a_planted_slope_more_often():
    means = 2.2 * math.sqrt(CLUSTER_VARIANCE) * np.linspace(0, 1, 4)
    found = []
    for seeds in (3, 10):
        rng = np.random.default_rng(seeds)
        slopes = [ladder.describe([planted(rng, seeds, 4, means)])[0].slope for _ in range(100)]
        found.append(np.mean([slope is not None and slope.verdict == MORE for slope in slopes]))
    assert found[0] < found[1]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", [0.25, 16])
def test_a_planted_null_is_covered(ratio, seeds):
    slope, steps, lowest, rejected, called = rates(200, seeds, ratio)
    three = 0.047  # three standard errors of 200 repetitions
    assert slope >= 0.95 - three
    assert steps >= 0.95 - three
    assert lowest >= 0.95 - three
    assert rejected <= 0.05 + three
    assert called <= 0.06 + three


@pytest.mark.slow
@pytest.mark.parametrize("rungs", [3, 5])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_planted_null_is_covered_in_4000_repetitions(ratio, seeds, rungs):
    slope, steps, lowest, rejected, called = rates(4000, seeds, ratio, rungs)
    assert 0.93 <= slope <= 0.97
    assert 0.93 <= steps <= 0.97
    assert 0.93 <= lowest <= 0.985
    assert rejected <= 0.06
    assert called <= 0.06
