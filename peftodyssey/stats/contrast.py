"""A paired difference between two methods: its interval over clusters and seeds, and its verdict.

The difference is computed for each seed on the same tokens, and its mean over seeds is the estimate. Its variance has
two parts: that of the clusters by resampling them, with the same draw for every cell, and that of the seeds, which are
too few to be resampled. Differences of seeds on a finite text vary also because each seed's difference depends on the
clusters (interaction): the resamples hold this part as well, so it is taken out of the seeds' part (two-way random
effects; Searle, Casella & McCulloch 1992, ch. 4).

The sum is entered by Student's t at Satterthwaite's (1946) degrees of freedom. Where a variance over 3 seeds came out
small these are too many, so the square of the half-width is averaged with that of the parts, each with its own
quantile. Satterthwaite's alone covers 92.5 % at worst, that of the parts up to 97.7 %, and their mean 94.6 to 96.8 % in
the simulations of tests/stats/test_contrast.py.

A difference that is not significant is not called equal: that takes two one-sided tests (Schuirmann 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from peftodyssey.stats.pooled_variance import SeedVariance, pooled_variance
from peftodyssey.stats.t_distribution import t_quantile_real

LEVEL = 0.95
EQUAL_LEVEL = 0.90  # of the interval inside of the margin: two one-sided tests at 5 %
MIN_SEEDS = 3
MAX_SEEDS_ADVISED = 100
LESS, MORE, EQUAL, UNDECIDED, NOT_COMPARABLE = "less", "more", "equal", "undecided", "not comparable"
SEEDS_AND_CLUSTERS, CLUSTERS = "clusters and seeds", "clusters"


@dataclass(frozen=True)
class Parts:
    """The estimate of one setting, nats per token, and what makes it vary."""

    estimate: float  # mean over seeds
    clusters_variance: float  # of the estimate, over clusters
    seed_variance: float  # of one seed's value, the interaction included; NaN with one seed
    interaction: float  # the part of `seed_variance` that resampled clusters account for; NaN with one seed
    seeds: int
    clusters: float  # effective number of clusters of the smallest text


@dataclass(frozen=True)
class ContrastResult:
    """An estimate with its intervals and verdict."""

    estimate: float
    lower: float
    upper: float
    equal_lower: float  # the 90 % interval, by which methods are called equal
    equal_upper: float
    verdict: str
    covers: str  # what the intervals cover
    degrees_of_freedom: float
    clusters_std: float  # standard error over clusters
    seeds_std: float  # standard error over seeds; NaN where unknown
    pooled_settings: int  # settings from which the variance over seeds is; 0: unknown
    seeds: SeedVariance | None  # the variance over seeds; None: unknown


@dataclass(frozen=True)
class SimultaneousResult:
    """The interval of one of several differences that holds for all of them together, and its verdict."""

    lower: float
    upper: float
    verdict: str


def parts(values: np.ndarray, clusters: float) -> Parts:
    """The parts of float64 [1 + resamples, seeds]: the value of each seed on the text itself, then on each resample.

    `clusters` is the effective number of clusters: resampled clusters vary less than clusters do, by (n - 1) / n.
    """
    estimates, resamples = values[0], values[1:]
    unbiased = clusters / (clusters - 1) if clusters > 1 else 1.0  # a single cluster has no variance
    over_clusters = unbiased * float(resamples.mean(1).var())
    n = len(estimates)
    if n < 2:
        return Parts(float(estimates[0]), over_clusters, math.nan, math.nan, n, clusters)
    deviations = resamples - resamples.mean(1, keepdims=True)
    interaction = unbiased * float(deviations.var(0).sum()) / (n - 1)
    own = float(estimates.var(ddof=1))
    return Parts(float(estimates.mean()), over_clusters, own, interaction, n, clusters)


def contrasts(settings: Sequence[Parts], margin: float, level: float = LEVEL) -> list[ContrastResult]:
    """The contrast of each setting of one comparison; the variance over seeds is pooled where the settings are alike.

    `margin` is the largest difference that is called equal, nats per token. Settings with fewer than three seeds have
    intervals over clusters alone and no verdict.
    """
    enough = [i for i, setting in enumerate(settings) if setting.seeds >= MIN_SEEDS]
    pools = pooled_variance(
        [settings[i].seed_variance for i in enough],
        [settings[i].interaction for i in enough],
        [settings[i].seeds - 1 for i in enough],
    )
    by_setting = dict(zip(enough, pools, strict=True))
    return [result_of(setting, by_setting.get(i), margin, level) for i, setting in enumerate(settings)]


def result_of(setting: Parts, seeds: SeedVariance | None, margin: float, level: float) -> ContrastResult:
    """The contrast of one setting whose variance over seeds is known; `seeds` None: over clusters alone, no verdict."""
    half, degrees = half_width(setting, seeds, level)
    half_equal, _ = half_width(setting, seeds, EQUAL_LEVEL)
    estimate = setting.estimate
    word = NOT_COMPARABLE if seeds is None else verdict(estimate, half, half_equal, margin)
    return ContrastResult(
        estimate,
        estimate - half,
        estimate + half,
        estimate - half_equal,
        estimate + half_equal,
        word,
        CLUSTERS if seeds is None else SEEDS_AND_CLUSTERS,
        degrees,
        math.sqrt(setting.clusters_variance),
        math.nan if seeds is None else math.sqrt(seeds.without_interaction / setting.seeds),
        0 if seeds is None else seeds.settings,
        seeds,
    )


def simultaneous(setting: Parts, result: ContrastResult, margin: float, number: int) -> SimultaneousResult:
    """The interval of one of `number` differences with which all of them hold at LEVEL together (Bonferroni).

    Resampling the largest of all studentised differences would be shorter where they are correlated, but with three
    seeds the correlation of the seeds' part has two degrees of freedom: it comes out too strong, and the interval too
    short. Where the variance over seeds is unknown it is over clusters alone, as that of `result` is.
    """
    (half, _), (half_equal, _) = (
        half_width(setting, result.seeds, 1 - (1 - level) / number) for level in (LEVEL, EQUAL_LEVEL)
    )
    word = NOT_COMPARABLE if result.seeds is None else verdict(setting.estimate, half, half_equal, margin)
    return SimultaneousResult(setting.estimate - half, setting.estimate + half, word)


def half_width(setting: Parts, seeds: SeedVariance | None, level: float) -> tuple[float, float]:
    """Half the width of the interval, and Satterthwaite's degrees of freedom; `seeds` None: over clusters alone."""
    over_clusters, cluster_degrees = setting.clusters_variance, max(setting.clusters - 1, 1.0)
    p = (1 + level) / 2
    if seeds is None:
        return t_quantile_real(p, cluster_degrees) * math.sqrt(over_clusters), cluster_degrees
    over_seeds = seeds.without_interaction / setting.seeds
    variance = over_clusters + over_seeds
    uncertain = over_clusters**2 / cluster_degrees + (seeds.variance / setting.seeds) ** 2 / seeds.degrees_of_freedom
    degrees = max(variance**2 / uncertain, 1.0) if uncertain else cluster_degrees
    together = t_quantile_real(p, degrees) ** 2 * variance
    apart = t_quantile_real(p, cluster_degrees) ** 2 * over_clusters
    apart += t_quantile_real(p, seeds.degrees_of_freedom) ** 2 * over_seeds
    return math.sqrt((together + apart) / 2), degrees


def verdict(estimate: float, half_width: float, half_width_equal: float, margin: float) -> str:
    """less or more: the interval excludes 0; equal: the 90 % interval is within the margin; else undecided."""
    if abs(estimate) > half_width:
        return LESS if estimate < 0 else MORE
    return EQUAL if abs(estimate) + half_width_equal < margin else UNDECIDED


def seeds_to_decide(setting: Parts, result: ContrastResult, margin: float) -> int | None:
    """The number of seeds with which this estimate and these variances would give a verdict; None: clusters limit it.

    A guide for the next run, not a power calculation: the estimate will differ.
    """
    if math.isnan(result.seeds_std):
        return None
    each = result.seeds_std**2 * setting.seeds
    for seeds in range(setting.seeds + 1, MAX_SEEDS_ADVISED + 1):
        expected = SeedVariance(each, each, seeds - 1, 1)
        wider = replace(setting, seeds=seeds)
        half, half_equal = (half_width(wider, expected, level)[0] for level in (LEVEL, EQUAL_LEVEL))
        if verdict(setting.estimate, half, half_equal, margin) != UNDECIDED:
            return seeds
    return None


def clusters_to_decide(setting: Parts, result: ContrastResult, margin: float) -> float | None:
    """How many times as many clusters would give a verdict, to one decimal; None: seeds limit it."""
    over_seeds = 0.0 if math.isnan(result.seeds_std) else result.seeds_std**2
    distance = max(abs(setting.estimate), margin - abs(setting.estimate))
    quantile = (result.upper - result.lower) / 2 / math.hypot(result.clusters_std, math.sqrt(over_seeds))
    left = (distance / quantile) ** 2 - over_seeds
    return math.ceil(10 * setting.clusters_variance / left) / 10 if left > 0 else None
