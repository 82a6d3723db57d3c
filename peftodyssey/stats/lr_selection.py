"""The learning rate of every tuned group, chosen on validation, never on test. Called by report.collect and `run`'s
last table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One cell of a tune group: cells with equal `group` differ in their learning rate only."""

    group: str
    lr: float | None  # None: nothing was trained
    valid_nll: float | None  # nats per token after adaptation; None or not finite: failed or not there yet


@dataclass(frozen=True)
class Choice:
    """What selection says of one candidate."""

    selected: bool
    edge: str | None = (
        None  # of a selected one: "low" or "high" where its lr is the end of its grid, so it is unresolved
    )


def select(rows: Sequence[Candidate]) -> list[Choice]:
    """A choice for every row, in order: per group the lowest validation NLL, the smaller lr where two are equal.

    A candidate without a finite validation NLL is never selected, but its lr counts as tried: a diverged neighbour
    bounds the optimum. A grid of one learning rate was not tuned and has no edge.
    """
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.group, []).append(place)
    choices = [Choice(False)] * len(rows)
    for places in groups.values():
        usable = [place for place in places if _finite(rows[place].valid_nll)]
        if usable:
            best = min(usable, key=lambda place: (rows[place].valid_nll, rows[place].lr or 0.0, place))
            choices[best] = Choice(True, _edge(rows[best].lr, [rows[place].lr for place in places]))
    return choices


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _edge(lr: float | None, grid: Sequence[float | None]) -> str | None:
    tried = sorted({value for value in grid if value is not None})
    if lr is None or len(tried) < 2:
        return None
    return "low" if lr == tried[0] else "high" if lr == tried[-1] else None
