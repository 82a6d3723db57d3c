"""The ranks of an adapter compared with the best of them, by trials with the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.measures.lora_ranks.table import ENOUGH, NOT_COMPARABLE, UNDECIDED, WORSE
from peftodyssey.stats.contrast import MIN_SEEDS
from peftodyssey.stats.multiple_comparisons import LossToBest, compared_with_best

MARGIN_NATS = 0.01


@dataclass(frozen=True)
class Trial:
    """One cell at its selected learning rate."""

    rank: int
    seed: int
    valid: float  # change of validation NLL, nats per token; lower is better
    resolved: bool  # the selected learning rate is known to be the best of its grid


@dataclass(frozen=True)
class RankVerdict:
    """What can be said of one rank."""

    verdict: str
    reason: str = ""
    loss: LossToBest | None = None
    seeds: int = 0
    degrees_of_freedom: int | None = None
    pooled: bool | None = None


def rank_verdicts(trials: Sequence[Trial], margin: float = MARGIN_NATS) -> dict[int, RankVerdict]:
    """A verdict for every rank, ascending, from trials that share text, base, method and alpha rule.

    A rank whose learning rate is not resolved is not compared. A rank is enough where the upper bound of its loss to
    the best is within the margin, so that fewer seeds make fewer ranks enough. Below three seeds there is no verdict.
    """
    ranks = sorted({trial.rank for trial in trials})
    resolved = [rank for rank in ranks if all(trial.resolved for trial in trials if trial.rank == rank)]
    values = {(trial.rank, trial.seed): trial.valid for trial in trials}
    seeds = _common_seeds(resolved, values)
    if len(resolved) < 2:
        reason = "there is no other rank whose best learning rate is inside of its grid"
    elif len(seeds) < MIN_SEEDS:
        reason = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}: a verdict takes {MIN_SEEDS}"
    else:
        compared = _compared(resolved, seeds, values, margin)
        return {rank: compared.get(rank) or _unresolved(len(seeds)) for rank in ranks}
    none = RankVerdict(NOT_COMPARABLE, reason, seeds=len(seeds))
    return {rank: none if rank in resolved else _unresolved(len(seeds)) for rank in ranks}


def _common_seeds(ranks: Sequence[int], values: Mapping[tuple[int, int], float]) -> list[int]:
    """The seeds that all ranks have."""
    seeds = {seed for _, seed in values}
    return sorted(seed for seed in seeds if ranks and all((rank, seed) in values for rank in ranks))


def _unresolved(seeds: int) -> RankVerdict:
    return RankVerdict(NOT_COMPARABLE, "the best learning rate is the edge of its grid", seeds=seeds)


def _compared(
    ranks: Sequence[int], seeds: Sequence[int], values: Mapping[tuple[int, int], float], margin: float
) -> dict[int, RankVerdict]:
    found = compared_with_best(np.array([[values[rank, seed] for seed in seeds] for rank in ranks]))
    return {
        rank: RankVerdict(_verdict(loss, margin), "", loss, len(seeds), found.degrees_of_freedom, found.pooled)
        for rank, loss in zip(ranks, found.losses, strict=True)
    }


def _verdict(loss: LossToBest, margin: float) -> str:
    if loss.upper <= margin:
        return ENOUGH
    return WORSE if loss.lower == 0 else UNDECIDED
