"""How what a change of the weights costs depends on the length of the pretraining. Called by `report.sensitivity`.

Every statement is a contrast of the rungs of one ladder, document by document and repetition by repetition (a pair of
noise with the same seed, a training with the same seed), so its interval is that of a mean over crossed units. It is
conditional on the ladder: how another pretraining run would differ is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.bootstrap import Interval
from peftodyssey.stats.two_way_interval import two_way_interval

Rungs = Mapping[
    int, np.ndarray
]  # pretraining tokens -> value summed by repetition and document, float64 [repetitions, documents]
MIN_RUNGS = 2  # rungs of a slope
RESAMPLES = 1000


def slope_weights(tokens: list[int]) -> np.ndarray:
    """What each rung's value is multiplied by in the least-squares slope against log10 of its tokens."""
    x = np.log10(np.asarray(tokens, np.float64))
    away = x - x.mean()
    return away / np.square(away).sum()


def contrast(rungs: Rungs) -> np.ndarray:
    """The slope per tenfold tokens, by repetition and document, float64 [repetitions, documents]."""
    tokens = sorted(rungs)
    return np.einsum("n,nrd->rd", slope_weights(tokens), np.stack([rungs[count] for count in tokens]))


def slope(rungs: Rungs, tokens_d: np.ndarray, **options: float) -> Interval:
    """Nats per token per tenfold pretraining tokens, with its interval; none with fewer than two rungs."""
    usable = {count: values for count, values in rungs.items() if count > 0}
    if len(usable) < MIN_RUNGS:
        return Interval(math.nan, None, None, 0, "one rung")
    return two_way_interval(contrast(usable), tokens_d, **options)


def slope_difference(first: Rungs, second: Rungs, tokens_d: np.ndarray, **options: float) -> Interval:
    """Slope of the first minus slope of the second, over the rungs that both have, repetition by repetition.

    Both need the same repetitions in the same order: a seed's data order is that of every method.
    """
    shared = [count for count in first if count in second and count > 0]
    if len(shared) < MIN_RUNGS:
        return Interval(math.nan, None, None, 0, "fewer than two rungs in common")
    apart = {count: first[count] - second[count] for count in shared}
    return slope(apart, tokens_d, **options)


@dataclass(frozen=True)
class TurningPoint:
    """Where the modified model's loss stops falling with longer pretraining.

    `tokens`: the bottom of the parabola in log tokens through the lowest rung and its neighbours; None where the lowest
    is at an end of the ladder. `lo`, `hi`: the 95 % interval; None at an end that lies outside of the ladder. `share`:
    of the resamples that turn up.
    """

    tokens: float | None
    lower: float | None
    upper: float | None
    share: float


def turning_point(
    losses: Rungs, tokens_d: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> TurningPoint:
    """The turning point of the modified model's loss, summed like the values of a slope; repetitions and documents are
    resampled both.
    """
    counts = sorted(count for count in losses if count > 0)
    assert len(counts) >= MIN_RUNGS
    stacked, x = np.stack([losses[count] for count in counts]), np.log10(np.asarray(counts, np.float64))
    _, repetitions, documents = stacked.shape
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        r = np.bincount(draw.integers(0, repetitions, repetitions), minlength=repetitions)
        d = np.bincount(draw.integers(0, documents, documents), minlength=documents)
        found.append(_bottom(x, np.einsum("nrd,r,d->n", stacked, r, d) / (repetitions * (tokens_d @ d))))
    here = _bottom(x, stacked.mean(1).sum(1) / tokens_d.sum())
    lo, hi = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return TurningPoint(_tokens(here), _tokens(lo), _tokens(hi), float(np.mean(np.asarray(found) < math.inf)))


def _bottom(x: np.ndarray, loss: np.ndarray) -> float:
    """log10 tokens of the bottom; -inf where the first rung is the lowest, inf where the last one is."""
    lowest = int(np.argmin(loss))
    if lowest in (0, len(x) - 1):
        return -math.inf if lowest == 0 and len(x) > 1 and loss[0] < loss[-1] else math.inf
    a, b, _ = np.polyfit(x[lowest - 1 : lowest + 2] - x[lowest], loss[lowest - 1 : lowest + 2], 2)
    return float(x[lowest] - b / (2 * a)) if a > 0 else float(x[lowest])


def _tokens(log10: float) -> float | None:
    return float(10**log10) if math.isfinite(log10) else None
