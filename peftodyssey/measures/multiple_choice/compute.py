"""Accuracy on prompts with choices before and after training, with intervals.

One accuracy has Wilson's interval (1927). The difference of two accuracies on the same prompts has Tango's score
interval (Statistics in Medicine 17, 1998, eqs. 8 to 10), which has a width even where no answer changed, and the
p-value of McNemar's exact test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class PairedAccuracy:
    """Accuracies of two models on the same prompts, 0 to 1, with 95 % intervals (`lower`, `upper`)."""

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
    won: int  # prompts that only the second model answers correctly
    lost: int  # prompts that only the first model answers correctly
    p_value: float  # exact and two-sided, of the hypothesis that won and lost are equally likely


def correct_answers(value: np.ndarray, example: np.ndarray, is_answer: np.ndarray) -> np.ndarray:
    """Whether the choice with the highest `value` is correct, bool [examples]; the first of equal values counts.

    `value` float [requests], `example` int [requests] ascending from 0, `is_answer` bool [requests] with one True per
    example.
    """
    starts = np.flatnonzero(np.diff(example, prepend=-1))
    highest = np.maximum.reduceat(value, starts)
    chosen = np.lexsort((np.arange(len(value)), value != highest[example], example))[starts]
    return np.asarray(is_answer, bool)[chosen]


def per_byte(loglik_nats: np.ndarray, n_bytes: np.ndarray) -> np.ndarray:
    """Log-likelihood divided by the UTF-8 bytes of the choice, so that long choices are not at a disadvantage.

    This is `acc_bytes` of lm-evaluation-harness.
    """
    return np.asarray(loglik_nats, np.float64) / n_bytes


def chance_accuracy(example: np.ndarray) -> float:
    """Accuracy of guessing: 1 / (number of choices), averaged over the prompts."""
    return float(np.mean(1 / np.bincount(example)))


def paired_accuracy(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> PairedAccuracy:
    """Compare two columns, bool [examples], that say which prompts each model answers correctly."""
    n = len(before)
    assert n == len(after) > 0
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return PairedAccuracy(
        n,
        float(first.mean()),
        *wilson_interval(int(first.sum()), n, level),
        float(second.mean()),
        *wilson_interval(int(second.sum()), n, level),
        (won - lost) / n,
        *tango_interval(won, lost, n, level),
        won,
        lost,
        mcnemar_p_value(won, lost),
    )


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share `correct` / n."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre, half_width = correct + z * z / 2, z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    return max(0.0, (centre - half_width) / (n + z * z)), min(1.0, (centre + half_width) / (n + z * z))


def tango_interval(won: int, lost: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of (won - lost) / n, from the numbers of discordant pairs among n."""
    z, estimate = NormalDist().inv_cdf((1 + level) / 2), (won - lost) / n
    return _bisect(won, lost, n, z, -1.0, estimate), _bisect(won, lost, n, -z, estimate, 1.0)


def _bisect(won: int, lost: int, n: int, z: float, lower: float, upper: float) -> float:
    """The difference in [lower, upper] at which the score statistic, which decreases with it, equals `z`."""
    for _ in range(60):
        middle = (lower + upper) / 2
        if _score(won, lost, n, middle) > z:
            lower = middle
        else:
            upper = middle
    return (lower + upper) / 2


def _score(won: int, lost: int, n: int, delta: float) -> float:
    """Score statistic: (won - lost - n delta) over its standard deviation if the true difference is `delta`.

    The share of lost pairs is at its maximum likelihood estimate under that difference.
    """
    b = (2 * n - won + lost) * delta - won - lost
    share = (math.sqrt(max(0.0, b * b + 8 * n * lost * delta * (1 - delta))) - b) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    deviation = won - lost - n * delta
    return deviation / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, deviation)


def mcnemar_p_value(won: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test: won + lost tosses of a fair coin."""
    discordant = won + lost
    tail = sum(math.comb(discordant, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**discordant)
