"""How few tokens account for a rise in NLL: shares, Lorenz curve, Gini coefficient, perplexity without the worst types.

The rise is the sum of the changes above 0; the changes below 0 are stated apart as the fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.degradation import perplexity

LORENZ_POINTS = 60


@dataclass(frozen=True)
class Concentration:
    """How unevenly the rise is distributed over units (token types or single tokens). NaN where nothing rose."""

    units: int
    rise_nats: float  # sum of the changes above 0
    fall_nats: float  # sum of the changes below 0
    share_for_50pct: float  # smallest share of the units that accounts for half of the rise
    share_for_90pct: float  # ... for 90 % of it
    gini: float  # 0: every unit rose equally; towards 1: a single unit


@dataclass(frozen=True)
class PerplexityWithout:
    """Both perplexities without the `k` token types whose NLL rose most."""

    k: int
    tokens: int  # that remain
    ppl_before: float
    ppl_after: float


def concentration(change_nats: np.ndarray) -> Concentration:
    """The concentration of changes float [n], one per unit (of a token type: summed over its occurrences)."""
    change = np.asarray(change_nats, np.float64)
    rise, fall = _rise_descending(change), math.fsum(np.minimum(change, 0))
    n, cumulative = len(rise), np.cumsum(rise)
    if not n or not cumulative[-1]:
        return Concentration(n, 0.0, fall, math.nan, math.nan, math.nan)
    half, most = ((int(np.searchsorted(cumulative, part * cumulative[-1])) + 1) / n for part in (0.5, 0.9))
    gini = float(((n + 1 - 2 * np.arange(1, n + 1)) * rise).sum() / (n * cumulative[-1]))
    return Concentration(n, math.fsum(rise), fall, half, most, gini)


def lorenz(change_nats: np.ndarray) -> list[tuple[float, float]]:
    """Points (share of the units, share of the rise), largest rise first, denser at the start. Empty: nothing rose."""
    rise = _rise_descending(np.asarray(change_nats, np.float64))
    n, cumulative = len(rise), np.cumsum(rise)
    if not n or not cumulative[-1]:
        return []
    counts = np.unique(np.geomspace(1, n, LORENZ_POINTS).round().astype(np.int64))
    return [(float(count / n), float(cumulative[count - 1] / cumulative[-1])) for count in counts]


def without_worst(
    tokens: np.ndarray, before_nats: np.ndarray, after_nats: np.ndarray, counts: Sequence[int]
) -> list[PerplexityWithout]:
    """Both perplexities without the k token types that rose most, for each k of `counts`.

    One entry per type: its scored tokens, int [n], and their summed NLL, float [n] nats. Types that did not rise are
    never left out. The types are chosen on the same rows that are evaluated, so the gain is an upper bound.
    """
    tokens, before, after = (np.asarray(column, np.float64) for column in (tokens, before_nats, after_nats))
    change = after - before
    worst = [i for i in np.argsort(-change, kind="stable") if change[i] > 0]
    results = []
    for k in counts:
        rest = np.ones(len(tokens), bool)
        rest[worst[:k]] = False
        n = tokens[rest].sum()
        perplexities = (perplexity(column[rest].sum() / n if n else math.nan) for column in (before, after))
        results.append(PerplexityWithout(k, int(n), *perplexities))
    return results


def _rise_descending(change: np.ndarray) -> np.ndarray:
    return np.sort(np.maximum(change, 0))[::-1]
