"""How few tokens carry a degradation: shares, Lorenz curve, Gini coefficient, and perplexity without the worst types.

The degradation is what rose: changes above 0. What fell is stated beside it and carries none. Called by the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.degradation import perplexity


@dataclass(frozen=True)
class Concentration:
    """How unevenly the rise lies on the units, which are token types or single tokens."""

    units: int
    rise_nats: float  # sum of the changes above 0
    fall_nats: float  # sum of those below
    share_for_50pct: (
        float  # smallest share of the units that carries half of the rise; NaN where nothing rose, as the next two
    )
    share_for_90pct: float  # ... that carries 90 % of it
    gini: float  # 0: every unit rose alike; towards 1: one alone


@dataclass(frozen=True)
class Without:
    """Both perplexities without the `k` token types whose NLL rose most."""

    k: int
    tokens: int  # that are left
    ppl_before: float
    ppl_after: float


def concentration(change_nats: np.ndarray) -> Concentration:
    """The concentration of float[n] changes, one for every unit (a token type's are summed)."""
    change = np.asarray(change_nats, np.float64)
    rise, fall = _rise(change), math.fsum(np.minimum(change, 0))
    n, reached = len(rise), np.cumsum(rise)
    if not n or not reached[-1]:
        return Concentration(n, 0.0, fall, math.nan, math.nan, math.nan)
    half, most = ((int(np.searchsorted(reached, part * reached[-1])) + 1) / n for part in (0.5, 0.9))
    gini = float(((n + 1 - 2 * np.arange(1, n + 1)) * rise).sum() / (n * reached[-1]))
    return Concentration(n, math.fsum(rise), fall, half, most, gini)


def lorenz(change_nats: np.ndarray, points: int = 60) -> list[tuple[float, float]]:
    """(share of the units, share of the rise that they carry), largest first: at most `learning_curves`, close together
    at the start.

    Empty where nothing rose.
    """
    rise = _rise(np.asarray(change_nats, np.float64))
    n, reached = len(rise), np.cumsum(rise)
    if not n or not reached[-1]:
        return []
    counts = np.unique(np.geomspace(1, n, points).round().astype(np.int64))
    return [(float(count / n), float(reached[count - 1] / reached[-1])) for count in counts]


def without_worst(
    tokens: np.ndarray, before_nats: np.ndarray, after_nats: np.ndarray, counts: Sequence[int]
) -> list[Without]:
    """Both perplexities when the worst token types are taken out, for each k of `counts`; only types that rose are.

    One entry a type: its scored tokens, int[n], and their summed NLL, float[n] nats. The worst are found on these very
    rows, so the gain is the most that leaving k types out can give.
    """
    tokens, before, after = (np.asarray(column, np.float64) for column in (tokens, before_nats, after_nats))
    change = after - before
    worst = [place for place in np.argsort(-change, kind="stable") if change[place] > 0]
    found = []
    for k in counts:
        left = np.ones(len(tokens), bool)
        left[worst[:k]] = False
        n = tokens[left].sum()
        ends = (perplexity(column[left].sum() / n if n else math.nan) for column in (before, after))
        found.append(Without(k, int(n), *ends))
    return found


def _rise(change: np.ndarray) -> np.ndarray:
    return np.sort(np.maximum(change, 0))[::-1]
