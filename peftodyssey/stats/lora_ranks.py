"""Quality against the rank of an adapter, beside the noise between seeds. Called by `report.ranks`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.stats.seed_variance import NoiseFloor, noise_floor


@dataclass(frozen=True)
class Trial:
    """One cell at its selected learning rate. Lower values are better; nats a token."""

    rank: int
    seed: int
    value: float
    resolved: bool  # its learning rate lies inside the grid that was tried


@dataclass(frozen=True)
class RankTrend:
    """What a family of cells says about the rank."""

    means: dict[int, float]  # rank -> mean over seeds, all ranks
    resolved: tuple[int, ...]  # ranks whose learning rate lies inside the grid for every seed: only these are compared
    noise: NoiseFloor  # between the seeds of one rank, pooled over the ranks
    best: int | None  # of the resolved ones
    smallest_within_noise: (
        int | None
    )  # smallest resolved rank whose mean is not above the best one's by more than the noise


def rank_trend(trials: Sequence[Trial]) -> RankTrend:
    """The trend of one family: same text, base, method and alpha rule."""
    values: dict[int, list[float]] = {}
    for trial in sorted(trials, key=lambda t: t.rank):
        values.setdefault(trial.rank, []).append(trial.value)
    means = {rank: math.fsum(found) / len(found) for rank, found in values.items()}
    resolved = tuple(rank for rank in means if all(t.resolved for t in trials if t.rank == rank))
    noise = noise_floor(list(values.values()))
    best = min(resolved, key=lambda rank: (means[rank], rank), default=None)
    enough = None
    if best is not None and noise.std is not None:
        enough = next(rank for rank in resolved if means[rank] - means[best] <= noise.std)
    return RankTrend(means, resolved, noise, best, enough)
