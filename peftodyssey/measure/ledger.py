"""The token ledger: which classes and which token types a change of NLL is made of. Called by the report.

Differences are after - before in nats; positive is worse. Sums over any partition of the rows add up to the whole (law 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LedgerRow:
    """One class of tokens and its part of the change."""

    name: str
    tokens: int
    sum_nats: float
    share: float  # of the whole change; NaN where that is 0
    mean_delta: float  # nats per token of the class; NaN where it has none


@dataclass(frozen=True)
class TokenRow:
    """One token type and its part of the change."""

    token: int
    count: int
    mean_before: float  # nats
    mean_after: float  # nats
    sum_nats: float  # change summed over its occurrences


def by_class(delta_nats: np.ndarray, token_class: np.ndarray, classes: Sequence[str]) -> list[LedgerRow]:
    """A row for every class, in the order of `classes`; `token_class` int[n] are places in it.

    NaN rows are not scored and count nowhere. Each sum is the exact sum rounded once (math.fsum).
    """
    kept = ~np.isnan(delta_nats)
    delta, label = np.asarray(delta_nats, np.float64)[kept], np.asarray(token_class)[kept]
    assert not len(label) or 0 <= label.min() <= label.max() < len(classes), "a class without a name"
    parts = [delta[label == number] for number in range(len(classes))]
    sums = [math.fsum(part) for part in parts]
    whole = math.fsum(delta)
    return [
        LedgerRow(name, len(part), total, total / whole if whole else math.nan, total / len(part) if len(part) else math.nan)
        for name, part, total in zip(classes, parts, sums, strict=True)
    ]


def by_token(before_nats: np.ndarray, after_nats: np.ndarray, token: np.ndarray) -> list[TokenRow]:
    """A row for every token type that is scored in both columns, ascending by token id."""
    kept = ~(np.isnan(before_nats) | np.isnan(after_nats))
    before, after = (np.asarray(column, np.float64)[kept] for column in (before_nats, after_nats))
    ids, inverse = np.unique(np.asarray(token)[kept], return_inverse=True)
    columns = [np.bincount(inverse, minlength=len(ids))]
    columns += [np.bincount(inverse, weights, len(ids)) for weights in (before, after, after - before)]
    return [
        TokenRow(int(i), int(n), float(b / n), float(a / n), float(d)) for i, n, b, a, d in zip(ids, *columns, strict=True)
    ]


def top_tokens(
    before_nats: np.ndarray, after_nats: np.ndarray, token: np.ndarray, k: int = 50
) -> tuple[list[TokenRow], list[TokenRow]]:
    """The token types whose summed NLL rose most and fell most, at most `k` each, largest change first.

    Types that did not change that way are in neither list; ties go by token id.
    """
    rows = by_token(before_nats, after_nats, token)
    worse = sorted((row for row in rows if row.sum_nats > 0), key=lambda row: (-row.sum_nats, row.token))
    better = sorted((row for row in rows if row.sum_nats < 0), key=lambda row: (row.sum_nats, row.token))
    return worse[:k], better[:k]
