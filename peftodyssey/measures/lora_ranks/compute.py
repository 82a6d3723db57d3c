"""Quality against the rank of an adapter, compared with the noise between seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.stats.seed_variance import NoiseFloor, noise_floor


@dataclass(frozen=True)
class Trial:
    """One cell at its selected learning rate; a lower value (nats per token) is better."""

    rank: int
    seed: int
    value: float
    resolved: bool  # the selected learning rate is known to be the best of its grid


@dataclass(frozen=True)
class RankTrend:
    """How the value depends on the rank; only resolved ranks are compared."""

    means: dict[int, float]  # rank -> mean over seeds, all ranks
    resolved: tuple[int, ...]  # ranks whose learning rate is resolved for every seed
    noise: NoiseFloor  # between the seeds of one rank, pooled over the ranks
    best: int | None
    smallest_within_noise: int | None  # smallest rank whose mean is at most one noise std above that of the best


def rank_trend(trials: Sequence[Trial]) -> RankTrend:
    """The trend over trials that share text, base, method and alpha rule."""
    values: dict[int, list[float]] = {}
    for trial in sorted(trials, key=lambda t: t.rank):
        values.setdefault(trial.rank, []).append(trial.value)
    means = {rank: math.fsum(seeds) / len(seeds) for rank, seeds in values.items()}
    resolved = tuple(rank for rank in means if all(t.resolved for t in trials if t.rank == rank))
    noise = noise_floor(list(values.values()))
    best = min(resolved, key=lambda rank: (means[rank], rank), default=None)
    smallest = None
    if best is not None and noise.std is not None:
        smallest = next(rank for rank in resolved if means[rank] - means[best] <= noise.std)
    return RankTrend(means, resolved, noise, best, smallest)
