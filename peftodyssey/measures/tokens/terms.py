"""The words that distinguish a domain from general text, and statistics of the rank of the true token.

Terms have a high log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008, equations 16, 18,
19 and 22). Ranks complement perplexity, because a few uninformative tokens can dominate a mean of losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora.token_classes import FUNCTION_WORDS

PRIOR_WORDS = 10_000  # weight of the prior: about the words of a default recipe's general text
MIN_Z = 1.96
MIN_COUNT = 3  # occurrences in the domain
MIN_LETTERS = 3
MAX_TERMS = 1000
TRIM = 0.1  # share of the ranks that is cut at either end
RECALLS = (1, 10, 100)


@dataclass(frozen=True)
class Term:
    """A word that is more frequent in the domain than in general text."""

    word: str
    log_odds: float
    z: float  # log-odds divided by its standard deviation
    domain_count: int
    general_count: int


@dataclass(frozen=True)
class RankStatistics:
    """Statistics of the rank of the true token (from 1) at some positions of a text; NaN where there are none."""

    tokens: int
    median: float
    trimmed_mean: float  # without 10 % at either end
    recall: dict[int, float]  # k -> share of the positions whose true token is among the first k


def domain_terms(domain: Mapping[str, int], general: Mapping[str, int]) -> list[Term]:
    """The terms of a domain from word counts, the highest z first: z >= MIN_Z, MIN_COUNT occurrences, MIN_LETTERS.

    Function words are left out. Empty if either text is empty.
    """
    words = sorted({*domain, *general})
    scores = zip(words, *log_odds([domain.get(w, 0) for w in words], [general.get(w, 0) for w in words]), strict=True)
    terms = [
        Term(word, float(odds), float(z), domain[word], general.get(word, 0))
        for word, odds, z in scores
        if z >= MIN_Z and domain.get(word, 0) >= MIN_COUNT and len(word) >= MIN_LETTERS and word not in FUNCTION_WORDS
    ]
    return sorted(terms, key=lambda term: (-term.z, term.word))[:MAX_TERMS]


def log_odds(domain: np.ndarray | list[int], general: np.ndarray | list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds ratio, z) of each word from its counts in both texts, whose pooled words are the prior.

    NaN if either text is empty.
    """
    y_i, y_j = np.asarray(domain, np.float64), np.asarray(general, np.float64)
    n_i, n_j = y_i.sum(), y_j.sum()
    if not n_i or not n_j:
        return np.full(len(y_i), np.nan), np.full(len(y_i), np.nan)
    prior = PRIOR_WORDS * (y_i + y_j) / (n_i + n_j)
    odds_i, odds_j = ((y + prior) / (n + PRIOR_WORDS - y - prior) for y, n in ((y_i, n_i), (y_j, n_j)))
    ratio = np.log(odds_i) - np.log(odds_j)
    return ratio, ratio / np.sqrt(1 / (y_i + prior) + 1 / (y_j + prior))


def rank_statistics(rank: np.ndarray) -> RankStatistics:
    """Statistics of ranks int [n]; those below 1 are not scored and left out."""
    scored = np.sort(np.asarray(rank)[np.asarray(rank) >= 1])
    n, cut = len(scored), int(TRIM * len(scored))
    if not n:
        return RankStatistics(0, np.nan, np.nan, dict.fromkeys(RECALLS, np.nan))
    recall = {k: float(np.mean(scored <= k)) for k in RECALLS}
    return RankStatistics(n, float(np.median(scored)), float(scored[cut : n - cut].mean()), recall)
