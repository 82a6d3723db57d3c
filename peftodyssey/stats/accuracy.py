"""Accuracy of the likeliest choice before and after, with intervals. Called by `report.collect_tasks`.

Intervals: Wilson's of one accuracy (1927), Tango's score interval of the difference of two accuracies on the same
prompts (Statistics in Medicine 17, 1998, eqs. 8 to 10), which has a width where nothing changed as well; the exact test
of McNemar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class PairedAccuracy:
    """Accuracies of two models on the same prompts, 0 to 1; lo and hi are 95 % intervals."""

    examples: int
    before: float
    before_lower: float
    before_upper: float
    after: float
    after_lower: float
    after_upper: float
    delta: float  # after - before; positive: better
    lower: float
    upper: float
    won: int  # prompts that only the second answers rightly
    lost: int  # prompts that only the first does
    p_value: float  # exact, two-sided, that won and lost are equally likely


def correct_answers(value: np.ndarray, example: np.ndarray, is_answer: np.ndarray) -> np.ndarray:
    """bool [examples]: whether the choice of the highest `value` is the right one; of equal values the first counts.

    `value` float [requests], `example` int [requests] ascending from 0, `is_answer` bool [requests], one True an
    example.
    """
    starts = np.flatnonzero(np.diff(example, prepend=-1))
    best = np.maximum.reduceat(value, starts)
    first = np.lexsort((np.arange(len(value)), value != best[example], example))[starts]
    return np.asarray(is_answer, bool)[first]


def per_byte(loglik_nats: np.ndarray, n_bytes: np.ndarray) -> np.ndarray:
    """Log-likelihood over the UTF-8 bytes of the choice: long choices are not punished (lm-eval's `acc_bytes`)."""
    return np.asarray(loglik_nats, np.float64) / n_bytes


def chance_accuracy(example: np.ndarray) -> float:
    """Accuracy of guessing: the mean over the prompts of one over their number of choices."""
    return float(np.mean(1 / np.bincount(example)))


def paired_accuracy(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> PairedAccuracy:
    """Two columns bool [examples] of right answers to the same prompts."""
    n = len(before)
    assert n == len(after) > 0
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    before_lo, before_hi = wilson_interval(int(first.sum()), n, level)
    after_lo, after_hi = wilson_interval(int(second.sum()), n, level)
    lo, hi = tango_interval(won, lost, n, level)
    return PairedAccuracy(
        n,
        float(first.mean()),
        before_lo,
        before_hi,
        float(second.mean()),
        after_lo,
        after_hi,
        (won - lost) / n,
        lo,
        hi,
        won,
        lost,
        mcnemar_p_value(won, lost),
    )


def wilson_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle, spread = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return max(0.0, (middle - spread) / (n + z * z)), min(1.0, (middle + spread) / (n + z * z))


def tango_interval(won: int, lost: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of (won - lost) / n, where won and lost of n pairs differ."""
    z, estimate = NormalDist().inv_cdf((1 + level) / 2), (won - lost) / n
    return _bisect(won, lost, n, z, -1.0, estimate), _bisect(won, lost, n, -z, estimate, 1.0)


def _bisect(won: int, lost: int, n: int, z: float, low: float, high: float) -> float:
    """The difference at which the score statistic, which falls with it, is `z`; found by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(won, lost, n, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(won: int, lost: int, n: int, delta: float) -> float:
    """(won - lost - n delta) over its standard deviation under that difference, at the likeliest share of lost pairs."""
    b = (2 * n - won + lost) * delta - won - lost
    share = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    distance = won - lost - n * delta
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def mcnemar_p_value(won: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test: a fair coin thrown won + lost times."""
    thrown, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(thrown, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**thrown)
