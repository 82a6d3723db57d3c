"""The token ledger: which groups of tokens and which token types a change of NLL is made of. Called by the report.

Differences are after - before in nats; positive is worse. Sums over any partition of the rows add up to the whole (law
7). The partitions are in `measure.attribute`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GroupChange:
    """One group of tokens and its part of the change."""

    name: str
    tokens: int
    mean_before: float  # nats per token of the group; NaN where it has none, as in mean_delta
    mean_after: float
    sum_nats: float  # change summed over the group
    share: float  # of the whole change; NaN where that is 0

    @property
    def mean_delta(self) -> float:
        """Change in nats per token of the group; NaN where it has none."""
        return self.sum_nats / self.tokens if self.tokens else math.nan


@dataclass(frozen=True)
class TokenChange:
    """One token type and its part of the change."""

    token: int
    count: int
    mean_before: float  # nats
    mean_after: float  # nats
    sum_nats: float  # change summed over its occurrences


def by_group(
    before_nats: np.ndarray, after_nats: np.ndarray, label: np.ndarray, names: Sequence[str]
) -> list[GroupChange]:
    """A row for every group, in the order of `names`; `label` int[n] are places in it.

    Rows that are NaN in either column count nowhere. Each sum is the exact sum rounded once (math.fsum).
    """
    kept = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[kept] for column in (before_nats, after_nats))
    label, delta = np.asarray(label)[kept], after - before
    assert not len(label) or 0 <= label.min() <= label.max() < len(names), "a group without a name"
    whole = math.fsum(delta)
    return [_row(name, before[rows], after[rows], delta[rows], whole) for name, rows in _rows_of(label, names)]


def _rows_of(label: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, np.flatnonzero(label == number)) for number, name in enumerate(names))


def _row(name: str, before: np.ndarray, after: np.ndarray, delta: np.ndarray, whole: float) -> GroupChange:
    total, n = math.fsum(delta), len(delta)
    means = (math.fsum(before) / n, math.fsum(after) / n) if n else (math.nan, math.nan)
    return GroupChange(name, n, *means, total, total / whole if whole else math.nan)


def by_token(before_nats: np.ndarray, after_nats: np.ndarray, token: np.ndarray) -> list[TokenChange]:
    """A row for every token type that is scored in both columns, ascending by token id."""
    kept = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[kept] for column in (before_nats, after_nats))
    ids, inverse = np.unique(np.asarray(token)[kept], return_inverse=True)
    columns = [np.bincount(inverse, minlength=len(ids))]
    columns += [np.bincount(inverse, weights, len(ids)) for weights in (before, after, after - before)]
    return [
        TokenChange(int(i), int(n), float(b / n), float(a / n), float(d))
        for i, n, b, a, d in zip(ids, *columns, strict=True)
    ]
