"""The breakdown of a change in NLL by groups of tokens and by token types.

Differences are after - before in nats; positive is worse. Sums over any partition of the tokens add up to the whole
change (law 7). The partitions are in `stats.token_groups`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GroupChange:
    """One group of tokens and its part of the change."""

    name: str
    tokens: int
    mean_before: float  # nats per token of the group; NaN where the group is empty, as in mean_delta
    mean_after: float
    sum_nats: float  # change summed over the group
    share: float  # of the whole change; NaN where that is 0

    @property
    def mean_delta(self) -> float:
        """Change in nats per token of the group."""
        return self.sum_nats / self.tokens if self.tokens else math.nan


@dataclass(frozen=True)
class TokenChange:
    """One token type and its part of the change."""

    token: int
    count: int
    mean_before: float  # nats
    mean_after: float
    sum_nats: float  # change summed over its occurrences


def by_group(
    before_nats: np.ndarray, after_nats: np.ndarray, label: np.ndarray, names: Sequence[str]
) -> list[GroupChange]:
    """A row for every group, in the order of `names`; `label` int [n] are indices into it.

    Tokens that are NaN in either column are left out. Each sum is exact and rounded once (math.fsum).
    """
    before, after, label = _scored(before_nats, after_nats, label)
    delta = after - before
    assert not len(label) or 0 <= label.min() <= label.max() < len(names), "a group without a name"
    total = math.fsum(delta)
    return [
        _group_change(name, before[label == number], after[label == number], delta[label == number], total)
        for number, name in enumerate(names)
    ]


def _group_change(name: str, before: np.ndarray, after: np.ndarray, delta: np.ndarray, total: float) -> GroupChange:
    group_sum, n = math.fsum(delta), len(delta)
    means = (math.fsum(before) / n, math.fsum(after) / n) if n else (math.nan, math.nan)
    return GroupChange(name, n, *means, group_sum, group_sum / total if total else math.nan)


def by_token(before_nats: np.ndarray, after_nats: np.ndarray, token: np.ndarray) -> list[TokenChange]:
    """A row for every token type that is scored in both columns, ascending by token id."""
    before, after, token = _scored(before_nats, after_nats, token)
    ids, inverse = np.unique(token, return_inverse=True)
    columns = [np.bincount(inverse, minlength=len(ids))]
    columns += [np.bincount(inverse, weights, len(ids)) for weights in (before, after, after - before)]
    return [
        TokenChange(int(i), int(n), float(b / n), float(a / n), float(d))
        for i, n, b, a, d in zip(ids, *columns, strict=True)
    ]


def _scored(before: np.ndarray, after: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both columns as float64 and the key, where both are scored."""
    scored = ~(np.isnan(before) | np.isnan(after))
    return np.asarray(before, np.float64)[scored], np.asarray(after, np.float64)[scored], np.asarray(key)[scored]
