"""How the cost of a change of the weights depends on the length of the pretraining: slopes along a ladder.

Every estimate is a contrast of the rungs of one ladder, by document and by repetition (a noise pair with the same seed,
a training run with the same seed), so its interval is that of a mean over crossed factors. It is conditional on the
ladder: how another pretraining run would differ is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.bootstrap import LEVEL, Interval
from peftodyssey.stats.two_way_interval import two_way_interval

# pretraining tokens -> values summed by repetition and document, float64 [repetitions, documents]
Rungs = Mapping[int, np.ndarray]
MIN_RUNGS = 2  # for a slope
N_RESAMPLES = 1000


def slope_weights(tokens: list[int]) -> np.ndarray:
    """The weight of each rung's value in the least-squares slope against log10 of its pretraining tokens."""
    x = np.log10(np.asarray(tokens, np.float64))
    deviation = x - x.mean()
    return deviation / np.square(deviation).sum()


def contrast(rungs: Rungs) -> np.ndarray:
    """The slope per tenfold tokens, by repetition and document, float64 [repetitions, documents]."""
    tokens = sorted(rungs)
    return np.einsum("n,nrd->rd", slope_weights(tokens), np.stack([rungs[count] for count in tokens]))


def slope(rungs: Rungs, tokens_d: np.ndarray) -> Interval:
    """Nats per token per tenfold pretraining tokens, with its interval; NaN below MIN_RUNGS pretrained rungs."""
    pretrained = {count: values for count, values in rungs.items() if count > 0}
    if len(pretrained) < MIN_RUNGS:
        return Interval(math.nan, None, None, 0, "one rung")
    return two_way_interval(contrast(pretrained), tokens_d)


def slope_difference(first: Rungs, second: Rungs, tokens_d: np.ndarray) -> Interval:
    """Slope of the first minus slope of the second, over common rungs, paired by repetition.

    Both need the same repetitions in the same order: all methods see the data order of a seed.
    """
    common = [count for count in first if count in second and count > 0]
    if len(common) < MIN_RUNGS:
        return Interval(math.nan, None, None, 0, "fewer than two rungs in common")
    return slope({count: first[count] - second[count] for count in common}, tokens_d)


@dataclass(frozen=True)
class TurningPoint:
    """Where the loss of the modified model stops falling with longer pretraining.

    `tokens`: the minimum of the parabola in log tokens through the lowest rung and its neighbours; None if the lowest
    rung is an end of the ladder. `lower`, `upper`: the 95 % interval; None at an end that lies outside of the ladder.
    `share`: of the resamples that have a turning point.
    """

    tokens: float | None
    lower: float | None
    upper: float | None
    share: float


def turning_point(
    losses: Rungs, tokens_d: np.ndarray, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> TurningPoint:
    """The turning point of the modified model's loss; repetitions and documents are both resampled."""
    counts = sorted(count for count in losses if count > 0)
    assert len(counts) >= MIN_RUNGS
    stacked, x = np.stack([losses[count] for count in counts]), np.log10(np.asarray(counts, np.float64))
    _, repetitions, documents = stacked.shape
    rng = np.random.default_rng(seed)
    minima = []
    for _ in range(n_resamples):
        r = np.bincount(rng.integers(0, repetitions, repetitions), minlength=repetitions)
        d = np.bincount(rng.integers(0, documents, documents), minlength=documents)
        minima.append(_minimum(x, np.einsum("nrd,r,d->n", stacked, r, d) / (repetitions * (tokens_d @ d))))
    estimate = _minimum(x, stacked.mean(1).sum(1) / tokens_d.sum())
    lower, upper = np.quantile(minima, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return TurningPoint(
        _tokens(estimate), _tokens(lower), _tokens(upper), float(np.mean(np.asarray(minima) < math.inf))
    )


def _minimum(x: np.ndarray, loss: np.ndarray) -> float:
    """log10 tokens of the minimum; -inf if it is the first rung, inf if the last."""
    lowest = int(np.argmin(loss))
    if lowest in (0, len(x) - 1):
        return -math.inf if lowest == 0 and len(x) > 1 and loss[0] < loss[-1] else math.inf
    a, b, _ = np.polyfit(x[lowest - 1 : lowest + 2] - x[lowest], loss[lowest - 1 : lowest + 2], 2)
    return float(x[lowest] - b / (2 * a)) if a > 0 else float(x[lowest])


def _tokens(log10: float) -> float | None:
    return float(10**log10) if math.isfinite(log10) else None
