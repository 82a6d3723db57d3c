"""The learning rate of every tuned group, selected on validation and never on test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One cell of a tuned group: cells with equal `group` differ in their learning rate only."""

    group: str
    lr: float | None  # None: nothing was trained
    valid_nll: float | None  # nats per token after adaptation; None or not finite: failed or not finished


@dataclass(frozen=True)
class Choice:
    """Whether a candidate is selected, and whether its learning rate is the edge of its grid (low | high | None)."""

    selected: bool
    edge: str | None = None


def select(rows: Sequence[Candidate]) -> list[Choice]:
    """A choice for every row, in order: per group the lowest validation NLL, the smaller lr where two are equal.

    A candidate without a finite validation NLL is never selected, but its lr counts as tried: a diverged neighbour
    bounds the optimum. A grid of one learning rate has no edge.
    """
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    choices = [Choice(False)] * len(rows)
    for indices in groups.values():
        losses = {i: loss for i in indices if (loss := rows[i].valid_nll) is not None and math.isfinite(loss)}
        if losses:
            best = min(losses, key=lambda i: (losses[i], rows[i].lr or 0.0, i))
            choices[best] = Choice(True, _edge(rows[best].lr, [rows[i].lr for i in indices]))
    return choices


def _edge(lr: float | None, grid: Sequence[float | None]) -> str | None:
    tried = sorted({value for value in grid if value is not None})
    if lr is None or len(tried) < 2:
        return None
    return "low" if lr == tried[0] else "high" if lr == tried[-1] else None
