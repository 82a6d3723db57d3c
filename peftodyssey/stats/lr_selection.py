"""The learning rate of every tuned group, selected on validation pooled over seeds, and never on test.

A rate that is chosen for each seed by itself makes rates differ by chance between seeds, and the differences between
methods and bases with them.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

LOW, HIGH, UNMEASURED = "low", "high", "unmeasured"


@dataclass(frozen=True)
class Candidate:
    """One cell of a tuned group: cells with equal `group` differ in their learning rate and seed only."""

    group: str
    lr: float | None  # None: nothing was trained
    seed: int
    valid_nll: float | None  # nats per token after adaptation; not finite: it failed; None: not measured (yet)


@dataclass(frozen=True)
class Choice:
    """Whether a cell has its group's selected learning rate, and why that rate may not be the best.

    `edge` is low or high where the rate is that end of its grid, and unmeasured where a neighbour in the grid was not
    trained to the end: nobody knows that it is worse.
    """

    selected: bool
    edge: str | None = None


def select(rows: Sequence[Candidate]) -> list[Choice]:
    """A choice for every row, in order: per group the lowest mean of validation NLL over seeds, see `pooled`.

    The smaller rate wins where two are equal. A grid of one learning rate has no edge.
    """
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    choices = [Choice(False)] * len(rows)
    for indices in groups.values():
        own = [rows[i] for i in indices]
        losses = pooled(own)
        best = best_rate(losses)
        if best is None:
            continue
        unresolved = edge(best, {_rate(row) for row in own}, losses)
        for i in indices:
            loss = rows[i].valid_nll
            if _rate(rows[i]) == best and loss is not None and math.isfinite(loss):
                choices[i] = Choice(True, unresolved)
    return choices


def pooled(rows: Iterable[Candidate]) -> dict[float, float]:
    """The mean validation NLL over seeds of each learning rate of one group that was measured.

    It is over the seeds that have a finite loss at some rate; a rate without all of these is missing, and infinite
    where one of its cells failed: a rate at which training diverges bounds the optimum.
    """
    by_rate: dict[float, dict[int, float]] = {}
    for row in rows:
        if row.valid_nll is not None:
            by_rate.setdefault(_rate(row), {})[row.seed] = row.valid_nll
    seeds = {seed for losses in by_rate.values() for seed, loss in losses.items() if math.isfinite(loss)}
    means: dict[float, float] = {}
    for rate, losses in sorted(by_rate.items()):
        own = [losses[seed] for seed in sorted(seeds) if seed in losses]
        if own and len(own) == len(seeds) and all(map(math.isfinite, own)):
            means[rate] = math.fsum(own) / len(own)
        elif not all(map(math.isfinite, losses.values())):
            means[rate] = math.inf
    return means


def best_rate(losses: dict[float, float]) -> float | None:
    """The rate with the lowest loss, the smaller of equal ones; None where none is finite."""
    finite = [rate for rate, loss in losses.items() if math.isfinite(loss)]
    return min(finite, key=lambda rate: (losses[rate], rate), default=None)


def neighbours(rate: float, grid: Iterable[float]) -> tuple[float | None, float | None]:
    """The next lower and the next higher rate of a grid; None where there is none."""
    rates = list(grid)
    lower, higher = [r for r in rates if r < rate], [r for r in rates if r > rate]
    return max(lower, default=None), min(higher, default=None)


def edge(best: float, grid: Iterable[float], measured: Container[float]) -> str | None:
    """Why `best` of the rates `grid` may not be the best one, as in `Choice`; None where both neighbours are worse."""
    rates = set(grid)
    lower, higher = neighbours(best, rates)
    if len(rates) < 2:
        return None
    if lower is None or higher is None:
        return LOW if lower is None else HIGH
    return None if lower in measured and higher in measured else UNMEASURED


def _rate(row: Candidate) -> float:
    return row.lr or 0.0
