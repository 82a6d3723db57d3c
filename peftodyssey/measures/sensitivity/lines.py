"""A quantity along a ladder before it is described: what it is of, and its values at every rung."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from peftodyssey.measures.contrast.differences import Clusters
from peftodyssey.stats.ladder import MIN_RUNGS, Ladder

Row = dict[str, Any]
BySeed = Mapping[int, np.ndarray]  # number of a seed or noise pair -> float64 [1 + resamples], nats per token


@dataclass(frozen=True)
class Line:
    """One quantity, or the difference of two, at rungs with known pretraining tokens."""

    coordinates: Row
    rungs: Mapping[int, BySeed]  # by pretraining tokens
    clusters: Clusters
    losses: Mapping[int, BySeed] | None = None  # NLL of the changed model, where it has one on each rung
    reasons: tuple[str, ...] = ()  # why a slope has no verdict

    @property
    def tokens(self) -> tuple[int, ...]:
        """Pretraining tokens of the rungs, ascending; the rung without any has no place on the axis."""
        return tuple(sorted(tokens for tokens in self.rungs if tokens > 0))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, or noise pairs, that every rung has: they are paired by number."""
        return common_seeds([self.rungs[tokens] for tokens in self.tokens])

    def ladder(self, values: Mapping[int, BySeed] | None = None) -> Ladder | None:
        """These values, or its own, as arrays; None under two rungs or without a common seed."""
        values = self.rungs if values is None else values
        if len(self.tokens) < MIN_RUNGS or not self.seeds:
            return None
        stacked = [np.stack([values[tokens][seed] for seed in self.seeds], -1) for tokens in self.tokens]
        return Ladder(self.tokens, np.stack(stacked, -1), self.clusters.effective)


def common_seeds(rungs: Sequence[Mapping[int, Any]]) -> tuple[int, ...]:
    """The numbers that all rungs have, ascending."""
    return tuple(sorted(set.intersection(*map(set, rungs)))) if rungs else ()


def difference(coordinates: Row, first: Line, second: Line) -> Line | None:
    """`first` - `second` at the rungs and seeds that both have; None where these are less than two rungs."""
    rungs = dict(_differences(first.rungs, second.rungs))
    reasons = tuple(dict.fromkeys((*first.reasons, *second.reasons)))
    line = Line(coordinates, rungs, first.clusters, None, reasons)
    return line if line.ladder() is not None else None


def _differences(first: Mapping[int, BySeed], second: Mapping[int, BySeed]) -> Iterator[tuple[int, BySeed]]:
    for tokens in sorted(set(first) & set(second)):
        if common := common_seeds([first[tokens], second[tokens]]):
            yield tokens, {seed: first[tokens][seed] - second[tokens][seed] for seed in common}


def with_reasons(line: Line, reasons: Sequence[str]) -> Line:
    """The same with further reasons."""
    return replace(line, reasons=(*line.reasons, *reasons))
