"""The paired contrast: its interval holds over clusters and seeds, and its verdict needs evidence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from peftodyssey.stats import contrast
from peftodyssey.stats.bootstrap import effective_documents
from peftodyssey.stats.cluster_resampling import ClusterSums, joined, resampled_means, sums_by_cluster
from peftodyssey.stats.pooled_variance import are_alike, pooled_variance
from peftodyssey.stats.t_distribution import t_quantile_real

CLUSTERS, SPREAD = 60, 0.1  # clusters of a text, standard deviation of a difference between them
DOCUMENT_VARIANCE = SPREAD**2 / CLUSTERS  # of the mean difference
RATIOS = (0.25, 1, 4, 16)  # variance of one seed's difference over that of the mean over documents
DECIDED = (contrast.LESS, contrast.MORE)


def planted(rng, seeds, ratio, effect=0.0, interaction=0.0, pieces=1, within=0.0, resamples=400):
    """One setting with a planted difference; `interaction`: of seeds and clusters; `within`: of a cluster's pieces."""
    tokens = rng.integers(50, 200, (CLUSTERS, pieces)).astype(np.float64)
    of_cluster = rng.normal(0, SPREAD, (CLUSTERS, 1, 1)) + rng.normal(0, within, (CLUSTERS, pieces, 1))
    of_seed = rng.normal(0, math.sqrt(ratio * DOCUMENT_VARIANCE), seeds)
    both = rng.normal(0, interaction * SPREAD, (CLUSTERS, pieces, seeds))
    sums = ((effect + of_cluster + of_seed + both) * tokens[:, :, None]).sum(1)
    text = ClusterSums(sums, tokens.sum(1))
    drawn = resampled_means(text, [int(rng.integers(1 << 30))], resamples)
    return contrast.parts(drawn, text.effective_clusters)


def rates(repetitions, seeds, ratio, *, settings=1, unlike=1.0, effect=0.0, **options):
    """Shares of contrasts whose interval covers the effect, and that are called different."""
    rng = np.random.default_rng(seeds * 1000 + int(ratio * 4))
    covered, called = [], []
    for _ in range(repetitions):
        ratios = [ratio * unlike if i == 0 else ratio for i in range(settings)]
        given = [planted(rng, seeds, value, effect, **options) for value in ratios]
        for found in contrast.contrasts(given, margin=0.01):
            covered.append(found.lower <= effect <= found.upper)
            called.append(found.verdict in DECIDED)
    return float(np.mean(covered)), float(np.mean(called))


@pytest.mark.parametrize("interaction", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_intervals_cover_a_planted_null(ratio, seeds, interaction):
    covered, called = rates(400, seeds, ratio, interaction=interaction)
    assert covered == pytest.approx(0.95, abs=0.033)  # three standard errors of 400 repetitions
    assert called <= 0.06 + 0.033


@pytest.mark.slow
@pytest.mark.parametrize("interaction", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_intervals_cover_in_4000_repetitions(ratio, seeds, interaction):
    covered, called = rates(4000, seeds, ratio, interaction=interaction)
    assert 0.93 <= covered <= 0.97
    assert called <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("unlike", [1.0, 30.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_where_the_variance_over_seeds_is_pooled(seeds, unlike):
    covered, called = rates(1000, seeds, 4, settings=4, unlike=unlike)
    assert 0.93 <= covered <= 0.97
    assert called <= 0.07


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_planted_effect_is_found_more_often_with_more_seeds(ratio):
    effect = 2.5 * math.sqrt(DOCUMENT_VARIANCE)
    few, many = (rates(400, seeds, ratio, effect=effect)[1] for seeds in (3, 10))
    assert few < many


def test_pieces_of_one_file_count_as_one_cluster():
    """Three pieces with intra-class correlation 0.3: clusters are covered, and pieces drawn one by one are not."""
    within = SPREAD * math.sqrt(0.7 / 0.3)
    assert rates(400, 5, 0.25, pieces=3, within=within)[0] >= 0.93
    rng, hits = np.random.default_rng(3), []
    for _ in range(300):
        values = rng.normal(0, SPREAD, (CLUSTERS, 1)) + rng.normal(0, within, (CLUSTERS, 3))
        text = ClusterSums(values.reshape(-1, 1), np.ones(3 * CLUSTERS))
        spread = contrast.parts(resampled_means(text, [0], 300), 3 * CLUSTERS)
        hits.append(abs(spread.estimate) < 1.97 * math.sqrt(spread.clusters_variance))
    assert np.mean(hits) < 0.9


def together(repetitions, seeds, ratio, methods=3):
    """Share of repetitions in which the simultaneous intervals of all pairs of equal methods contain 0."""
    rng, held = np.random.default_rng(seeds), []
    pairs = [(i, j) for i in range(methods) for j in range(i)]
    for number in range(repetitions):
        of_cluster = rng.normal(0, SPREAD, (CLUSTERS, methods, 1)) / math.sqrt(2)
        of_seed = rng.normal(0, math.sqrt(ratio * DOCUMENT_VARIANCE / 2), (methods, seeds))
        values = (of_cluster + of_seed).reshape(CLUSTERS, -1)
        drawn = resampled_means(ClusterSums(values, np.ones(CLUSTERS)), [number], 200).reshape(-1, methods, seeds)
        found = [contrast.parts(drawn[:, i] - drawn[:, j], CLUSTERS) for i, j in pairs]
        results = [contrast.contrasts([one], 0.01)[0] for one in found]
        intervals = [contrast.simultaneous(*one, 0.01, len(pairs)) for one in zip(found, results, strict=True)]
        held.append(all(one.lower <= 0 <= one.upper for one in intervals))
    return float(np.mean(held))


@pytest.mark.parametrize(("seeds", "ratio"), [(3, 1), (3, 16), (5, 4)])
def test_all_pairs_hold_together(seeds, ratio):
    assert together(150, seeds, ratio) >= 0.90  # of 95 %, less three standard errors


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_all_pairs_hold_together_in_2000_repetitions(seeds, ratio):
    assert together(2000, seeds, ratio) >= 0.94


def test_columns_share_the_draw_and_texts_do_not():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 40).astype(np.float64)
    values = rng.normal(2, 1, 40)
    text = ClusterSums(np.stack([values, values + 0.25], 1) * tokens[:, None], tokens)
    drawn = resampled_means(text, [1])
    assert drawn[0] == pytest.approx([np.average(values, weights=tokens) + shift for shift in (0, 0.25)])
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 0.25, atol=1e-12)
    other = resampled_means(text, [2])
    assert abs(np.corrcoef(drawn[1:, 0], other[1:, 0])[0, 1]) < 0.1
    both = joined([text, text])
    assert (len(both.tokens), both.effective_clusters) == (80, pytest.approx(2 * effective_documents(tokens)))
    np.testing.assert_array_equal(sums_by_cluster(np.array([1.0, 2, 4]), np.array([1, 0, 1]), 3), [2, 5, 0])


def test_no_verdict_below_three_seeds():
    rng = np.random.default_rng(1)
    for seeds in (1, 2):
        (found,) = contrast.contrasts([planted(rng, seeds, 0.0, effect=1.0)], margin=0.01)
        assert (found.verdict, found.covers, found.pooled_settings) == ("not comparable", "clusters", 0)
        assert 0 < found.lower < 1 < found.upper or found.lower > 0.9


@pytest.mark.parametrize(
    ("estimate", "half", "half_equal", "word"),
    [
        (-0.02, 0.01, 0.008, "less"),
        (0.02, 0.01, 0.008, "more"),
        (0.002, 0.004, 0.003, "equal"),
        (0.002, 0.01, 0.0085, "undecided"),  # not significant, and not equal
        (0.004, 0.003, 0.002, "more"),  # by less than the margin, and different all the same
    ],
)
def test_a_difference_that_is_not_significant_is_not_equal(estimate, half, half_equal, word):
    assert contrast.verdict(estimate, half, half_equal, margin=0.01) == word


def test_two_one_sided_tests_call_a_difference_of_one_margin_equal_in_5_percent():
    rng, called = np.random.default_rng(2), []
    margin = 3.2 * math.sqrt(DOCUMENT_VARIANCE * 1.25)
    for _ in range(600):
        (found,) = contrast.contrasts([planted(rng, 5, 0.25, effect=margin, resamples=200)], margin)
        called.append(found.verdict == "equal")
    assert np.mean(called) <= 0.07


def test_variances_over_seeds_are_pooled_where_they_are_alike():
    alike = pooled_variance([1.0, 1.2, 0.9], [0.2, 0.2, 0.2], [2, 2, 4])
    assert {(v.settings, v.degrees_of_freedom) for v in alike} == {(3, 8)}
    assert alike[0].variance == pytest.approx((2 * 1.0 + 2 * 1.2 + 4 * 0.9) / 8)
    assert alike[0].without_interaction == pytest.approx(alike[0].variance - 0.2)
    unlike = pooled_variance([1e-6] * 5 + [9e-4], [0.0] * 6, [2] * 6)
    assert [v.settings for v in unlike] == [1] * 6
    assert [v.variance for v in unlike] == [1e-6] * 5 + [9e-4]
    assert not are_alike([0.0, 1.0], [2, 2])


def test_the_test_of_alike_variances_rejects_a_quarter_of_equal_ones():
    rng = np.random.default_rng(4)
    df = (4, 4, 4)
    rejected = [not are_alike(list(rng.chisquare(4, 3) / 4), df) for _ in range(800)]
    assert np.mean(rejected) == pytest.approx(0.25, abs=0.05)


def test_alike_agrees_with_bartletts_test():
    rng = np.random.default_rng(5)
    samples = [rng.normal(size=(3, 12)) * np.array([[1.0], [1.0], [scale]]) for scale in (1, 1, 2, 3, 9)]
    theirs = [bool(stats.bartlett(*sample).pvalue > 0.25) for sample in samples]
    assert [are_alike([float(row.var(ddof=1)) for row in sample], [11] * 3) for sample in samples] == theirs


@pytest.mark.parametrize(("low", "high", "tolerance"), [(1, 2, 0.03), (2, 3, 0.005), (3, 60, 0.0015)])
def test_quantiles_between_whole_degrees_of_freedom(low, high, tolerance):
    for df in np.linspace(low, high, 40):
        assert t_quantile_real(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=tolerance)


def test_what_would_decide():
    rng = np.random.default_rng(6)
    given = planted(rng, 3, 16, effect=0.0)
    given = contrast.Parts(0.05, given.clusters_variance, 0.04**2, 0.0, 3, given.clusters)
    (found,) = contrast.contrasts([given], margin=0.01)
    assert found.verdict == "undecided"
    seeds = contrast.seeds_to_decide(given, found, 0.01)
    assert seeds is not None
    more = contrast.Parts(0.05, given.clusters_variance, 0.04**2, 0.0, seeds, given.clusters)
    fewer = contrast.Parts(0.05, given.clusters_variance, 0.04**2, 0.0, seeds - 1, given.clusters)
    assert contrast.contrasts([more], 0.01)[0].verdict == "more"
    assert contrast.contrasts([fewer], 0.01)[0].verdict == "undecided"
    assert contrast.clusters_to_decide(given, found, 0.01) is None


@pytest.mark.parametrize(("split", "difference", "documents"), [("test", -0.0811, 80), ("general", -0.0094, 39)])
def test_a_known_run(split, difference, documents):
    """Full fine-tuning at 3e-4 less LoRA r=8 at 3e-3, arXiv, from sums of each document of a run of one seed."""
    sums = json.loads((Path(__file__).parent / "quickstart_sums.json").read_text())[split]
    columns = np.stack([np.array(sums[name]) for name in ("before", "full", "lora")], 1)
    text = ClusterSums(columns, np.array(sums["tokens"], np.float64))
    assert len(text.tokens) == documents
    means = resampled_means(text, [0])
    given = contrast.parts((means[:, 1] - means[:, 2])[:, None], text.effective_clusters)
    (found,) = contrast.contrasts([given], margin=0.01)
    assert found.estimate == pytest.approx(difference, abs=5e-5)  # test: learned .0811 more; general: forgot .0094 less
    assert (found.verdict, found.covers) == ("not comparable", "clusters")
    assert found.upper < 0
    again = (columns[:, 1].sum() - columns[:, 2].sum()) / text.tokens.sum()
    assert found.estimate == pytest.approx(again, abs=1e-12)
