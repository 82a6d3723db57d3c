"""Quality against the rank of an adapter, beside the noise between seeds. Called by `report.ranks`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SEEDS_FOR_NOISE = 2  # of one rank at least: below, a difference cannot be told from noise


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
    noise: float | None  # pooled standard deviation between seeds; None: too few seeds
    best: int | None  # of the resolved ones
    smallest_enough: int | None  # smallest resolved rank whose mean is not above the best one's by more than the noise


def rank_trend(trials: Sequence[Trial]) -> RankTrend:
    """The trend of one family: same text, base, method and alpha rule."""
    values: dict[int, list[float]] = {}
    for trial in sorted(trials, key=lambda t: t.rank):
        values.setdefault(trial.rank, []).append(trial.value)
    means = {rank: math.fsum(found) / len(found) for rank, found in values.items()}
    resolved = tuple(rank for rank in means if all(t.resolved for t in trials if t.rank == rank))
    noise = _pooled_deviation([found for found in values.values() if len(found) >= SEEDS_FOR_NOISE])
    best = min(resolved, key=lambda rank: (means[rank], rank), default=None)
    enough = None
    if best is not None and noise is not None:
        enough = next(rank for rank in resolved if means[rank] - means[best] <= noise)
    return RankTrend(means, resolved, noise, best, enough)


def _pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """The root of the mean variance within groups, weighted by degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = math.fsum((value - math.fsum(group) / len(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / freedom)
