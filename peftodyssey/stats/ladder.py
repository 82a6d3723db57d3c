"""A quantity along the rungs of a ladder: steps between neighbours, a test of the line, its slope, the lowest rung.

Every number is a contrast of the rungs (its weights add up to 0), computed for each seed on the same clusters, with the
interval of stats/contrast.py. The variance over seeds is that of randomised blocks: under equal variances and
correlations of the rungs each contrast of unit length has the same one, so that it is pooled over the rungs - 1
orthogonal contrasts of a ladder, and over several ladders, where a test says that these are alike (see
stats/pooled_variance.py). Else each contrast has its own, and at least the average, with seeds - 1 degrees of freedom.

A slope in log tokens is meant only for a line. Its lack of fit is tested by the orthogonal polynomials of degree 2 and
more, each at 5 % divided by their number (Bonferroni).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from peftodyssey.stats.contrast import LEVEL, MIN_SEEDS, ContrastResult, Parts, half_width, result_of
from peftodyssey.stats.pooled_variance import SeedVariance, are_alike, average_variance

MIN_RUNGS = 2
ROUNDING = 1e-12  # relative, of sums in float64
MARGIN_NATS = 0.01  # of a slope per tenfold tokens and of a step: the largest that is called equal to 0
FALLS, RISES, VALLEY, PEAK = "falls", "rises", "falls, then rises", "rises, then falls"
UP_AND_DOWN, NO_CLEAR_STEP = "up and down", "no clear step"


@dataclass(frozen=True)
class Ladder:
    """One quantity on rungs with known pretraining tokens, nats per token."""

    tokens: tuple[int, ...]  # ascending, all above 0
    values: np.ndarray  # float64 [1 + resamples, seeds, rungs]: the text itself, then its resamples
    clusters: float  # effective number

    @functools.cached_property
    def moments(self) -> Moments:
        """Of which the parts of every contrast are made."""
        estimates, resamples = self.values[0], self.values[1:]
        seeds = len(estimates)
        unbiased = self.clusters / (self.clusters - 1) if self.clusters > 1 else 1.0
        mean = resamples.mean(1)
        over_clusters = unbiased * _covariance(mean[:, None])
        if seeds < 2:
            unknown = np.full_like(over_clusters, np.nan)
            return Moments(estimates.mean(0), over_clusters, unknown, unknown)
        of_seeds = _covariance(estimates[:, None]) * seeds / (seeds - 1)
        interaction = unbiased * _covariance(resamples - mean[:, None]) * seeds / (seeds - 1)
        return Moments(estimates.mean(0), over_clusters, of_seeds, interaction)


@dataclass(frozen=True)
class Moments:
    """Means over seeds [rungs] and covariances of the rungs [rungs, rungs], as `Parts` has variances."""

    means: np.ndarray
    clusters: np.ndarray  # of the means, over clusters
    seeds: np.ndarray  # of one seed; NaN with one seed
    interaction: np.ndarray  # the part of `seeds` that resampled clusters account for


@dataclass(frozen=True)
class Step:
    """A rung less the one before it."""

    tokens_from: int
    tokens_to: int
    result: ContrastResult
    sign: int  # of the step where its interval excludes 0 after correction for the number of steps, else 0


@dataclass(frozen=True)
class LadderResult:
    """What is said of one ladder."""

    steps: tuple[Step, ...]
    slope: ContrastResult | None  # per tenfold tokens; None where the line is rejected
    lack_of_fit: float | None  # largest deviation from a line over its half-width; above 1: rejected; None: two rungs
    shape: str  # of a ladder that is not a line, by its clear steps; empty where the line is not rejected
    turn_tokens: int | None  # the rung at which it turns, where the shape is a valley or a peak


def log10_tokens(tokens: Sequence[int]) -> np.ndarray:
    """The place of each rung on the axis."""
    return np.log10(np.asarray(tokens, np.float64))


def slope_weights(tokens: Sequence[int]) -> np.ndarray:
    """The weight of each rung in the least-squares slope against log10 of its pretraining tokens."""
    deviation = log10_tokens(tokens) - log10_tokens(tokens).mean()
    return np.asarray(deviation / np.square(deviation).sum())


def unit_contrasts(tokens: Sequence[int]) -> np.ndarray:
    """Orthonormal polynomials in log tokens of degree 1, 2, ..., float64 [rungs - 1, rungs]; each row adds up to 0."""
    x = log10_tokens(tokens)
    centred = (x - x.mean()) / np.ptp(x)
    q, _ = np.linalg.qr(np.vander(centred, increasing=True))
    return np.asarray(q.T[1:])


def describe(ladders: Sequence[Ladder]) -> list[LadderResult]:
    """The result of each ladder; their variances over seeds are pooled where they are alike."""
    return [_describe(ladder, seeds) for ladder, seeds in zip(ladders, _seed_variances(ladders), strict=True)]


def contrast_of(ladder: Ladder, weights: np.ndarray) -> Parts:
    """The parts of the weighted sum of rungs: those of `stats.contrast.parts` of its values."""
    moments = ladder.moments
    of_clusters, of_seeds, interaction = (
        _variance(weights, covariance) for covariance in (moments.clusters, moments.seeds, moments.interaction)
    )
    seeds = ladder.values.shape[1]
    return Parts(float(moments.means @ weights), of_clusters, of_seeds, interaction, seeds, ladder.clusters)


def _variance(weights: np.ndarray, covariance: np.ndarray) -> float:
    """Of a weighted sum; rounding may make one of 0 negative."""
    variance = float(weights @ covariance @ weights)
    return 0.0 if variance < 0 else variance


def _covariance(values: np.ndarray) -> np.ndarray:
    """Covariance over the first axis of float64 [n, k, rungs], mean over k; [rungs, rungs]."""
    n, k, _ = values.shape
    centred = values - values.mean(0)
    return np.asarray(np.tensordot(centred, centred, axes=([0, 1], [0, 1])) / (n * k))


@dataclass(frozen=True)
class _UnitVariance:
    """The variance over seeds of a contrast of unit length, averaged over contrasts."""

    mean: SeedVariance
    is_shared: bool  # the contrasts are alike


def _seed_variances(ladders: Sequence[Ladder]) -> list[_UnitVariance | None]:
    """Of each ladder; None where it has too few seeds."""
    of_ladders = [
        [contrast_of(ladder, weights) for weights in unit_contrasts(ladder.tokens)]
        if ladder.values.shape[1] >= MIN_SEEDS
        else []
        for ladder in ladders
    ]
    every = _unit_variance([one for own in of_ladders for one in own])
    if every is not None and every.is_shared:
        return [every if own else None for own in of_ladders]
    return [_unit_variance(own) for own in of_ladders]


def _unit_variance(of_contrasts: Sequence[Parts]) -> _UnitVariance | None:
    if not of_contrasts:
        return None
    variances = [one.seed_variance for one in of_contrasts]
    interactions = [one.interaction for one in of_contrasts]
    degrees = [one.seeds - 1 for one in of_contrasts]
    mean = average_variance(variances, interactions, degrees)
    return _UnitVariance(mean, len(variances) > 1 and are_alike(variances, degrees))


def _of_contrast(given: Parts, weights: np.ndarray, unit: _UnitVariance | None) -> SeedVariance | None:
    """The variance over seeds of one contrast: the shared one times its squared length.

    Where contrasts are unlike it is its own, with seeds - 1 degrees of freedom, and at least the average one: of
    several variances that were found to be unlike the small ones are too small.
    """
    if unit is None:
        return None
    length = float(np.square(weights).sum())
    variance, without = (length * value for value in (unit.mean.variance, unit.mean.without_interaction))
    if unit.is_shared:
        return replace(unit.mean, variance=variance, without_interaction=without)
    own = max(given.seed_variance, variance), max(given.seed_variance - given.interaction, without)
    return SeedVariance(*own, given.seeds - 1, 1)


def _describe(ladder: Ladder, unit: _UnitVariance | None) -> LadderResult:
    steps = tuple(_step(ladder, number, (len(ladder.tokens) - 1), unit) for number in range(len(ladder.tokens) - 1))
    lack_of_fit = _lack_of_fit(ladder, unit)
    if lack_of_fit is not None and lack_of_fit > 1:
        return LadderResult(steps, None, lack_of_fit, *_shape(ladder, steps))
    weights = slope_weights(ladder.tokens)
    given = contrast_of(ladder, weights)
    slope = result_of(given, _of_contrast(given, weights, unit), MARGIN_NATS, LEVEL)
    return LadderResult(steps, slope, lack_of_fit, "", None)


def _step(ladder: Ladder, number: int, n_steps: int, unit: _UnitVariance | None) -> Step:
    weights = np.zeros(len(ladder.tokens))
    weights[number : number + 2] = -1, 1
    given = contrast_of(ladder, weights)
    seeds = _of_contrast(given, weights, unit)
    half, _ = half_width(given, seeds, 1 - (1 - LEVEL) / n_steps)
    sign = int(np.sign(given.estimate)) if abs(given.estimate) > half else 0
    before, after = ladder.tokens[number : number + 2]
    return Step(before, after, result_of(given, seeds, MARGIN_NATS, LEVEL), sign)


def _lack_of_fit(ladder: Ladder, unit: _UnitVariance | None) -> float | None:
    """The largest of the polynomials of degree 2 and more, each over its half-width; rounding is no deviation."""
    ratios, rounding = [], ROUNDING * float(np.abs(ladder.values[0]).max())
    for weights in unit_contrasts(ladder.tokens)[1:]:
        given = contrast_of(ladder, weights)
        level = 1 - (1 - LEVEL) / (len(ladder.tokens) - 2)
        half, _ = half_width(given, _of_contrast(given, weights, unit), level)
        deviation = abs(given.estimate) if abs(given.estimate) > rounding else 0.0
        ratios.append(deviation / half if half else np.inf * bool(deviation))
    return max(ratios, default=None)


def _shape(ladder: Ladder, steps: Sequence[Step]) -> tuple[str, int | None]:
    """The order of clear falls and rises, and the rung of the turn: the extreme one between the last and the first."""
    clear = [step for step in steps if step.sign]
    turns = [(first, second) for first, second in pairwise(clear) if first.sign != second.sign]
    if not clear:
        return NO_CLEAR_STEP, None
    if not turns:
        return (RISES if clear[0].sign > 0 else FALLS), None
    if len(turns) > 1:
        return UP_AND_DOWN, None
    before, after = turns[0]
    between = ladder.tokens.index(before.tokens_to), ladder.tokens.index(after.tokens_from)
    means = before.sign * ladder.values[0].mean(0)[between[0] : between[1] + 1]
    turn = ladder.tokens[between[0] + int(np.argmax(means))]
    return (VALLEY if before.sign < 0 else PEAK), turn


def lowest_rungs(losses: Ladder) -> tuple[int, ...]:
    """The rungs that may have the lowest loss: a set that holds the lowest one with at least 95 % (given the ladder).

    A rung is left out where another one is clearly lower, one-sided at 5 % divided by the number of other rungs, with
    the variance of their own difference. The set is never empty: the lowest mean is in it.
    """
    (unit,) = _seed_variances([losses])
    n = len(losses.tokens)
    level = 1 - 2 * (1 - LEVEL) / (n - 1)
    kept = []
    for i, j in ((i, j) for i in range(n) for j in range(n) if i != j):
        weights = np.zeros(n)
        weights[i], weights[j] = 1, -1
        given = contrast_of(losses, weights)
        half, _ = half_width(given, _of_contrast(given, weights, unit), level)
        kept.append((i, given.estimate <= half))
    return tuple(losses.tokens[i] for i in range(n) if all(may for rung, may in kept if rung == i))
