"""The words that distinguish a domain from general text, and statistics of the rank of the true token.

Terms have a high log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008, equations 16, 18,
19 and 22), whose variance is that over documents: words come in bursts, so occurrences are no independent draws. Ranks
complement perplexity, because a few uninformative tokens can dominate a mean of losses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora.token_classes import FUNCTION_WORDS

PRIOR_WORDS = 10_000  # weight of the prior: about the words of a default recipe's general text
FDR = 0.05  # share of the terms that chance alone may have made
MIN_COUNT = 3  # occurrences in the domain
MIN_DOCUMENTS = 3  # of the domain that have the word
MIN_LETTERS = 3
MAX_TERMS = 1000
TRIM = 0.1  # share of the ranks that is cut at either end
RECALLS = (1, 10, 100)


@dataclass(frozen=True)
class Term:
    """A word that is more frequent in the domain than in general text."""

    word: str
    log_odds: float
    z: float  # log-odds divided by its standard deviation over documents
    domain_count: int
    domain_documents: int
    general_count: int


@dataclass(frozen=True)
class RankStatistics:
    """Statistics of the rank of the true token (from 1) at some positions of a text; NaN where there are none."""

    tokens: int
    median: float
    trimmed_mean: float  # without 10 % at either end
    recall: dict[int, float]  # k -> share of the positions whose true token is among the first k


@dataclass(frozen=True)
class WordCounts:
    """The words of one text: occurrences, documents that have it, and dispersion over documents, by word.

    The dispersion of a word is the variance of its rate over documents in units of what independent occurrences would
    have, at least 1: a topic word that one document repeats ten times has about 10 (ratio estimator, Cochran 1977).
    """

    counts: Mapping[str, int]
    documents: Mapping[str, int]
    dispersion: Mapping[str, float]


def word_counts(documents: Sequence[Mapping[str, int]]) -> WordCounts:
    """From the word counts of each document; files or articles that documents were cut from count as one."""
    sizes = [sum(document.values()) for document in documents]
    total, n = sum(sizes), len(documents)
    counts, having, squares, products = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for document, size in zip(documents, sizes, strict=True):
        for word, count in document.items():
            counts[word] += count
            having[word] += 1
            squares[word] += count * count
            products[word] += count * size
    size_squares = sum(size * size for size in sizes)
    dispersion = {}
    for word, count in counts.items():
        rate = count / total
        residuals = squares[word] - 2 * rate * products[word] + rate * rate * size_squares
        dispersion[word] = max(1.0, residuals * n / ((n - 1) * count)) if n > 1 else float(count)
    return WordCounts(counts, having, dispersion)


def domain_terms(domain: WordCounts, general: WordCounts) -> list[Term]:
    """The terms of a domain, the highest z first: words of MIN_DOCUMENTS documents, MIN_COUNT and MIN_LETTERS or more
    whose z is significant at a false discovery rate of FDR among all such words.

    Function words are left out. Empty if either text is empty.
    """
    words = sorted({*domain.counts, *general.counts})
    in_domain, in_general = ([text.counts.get(word, 0) for word in words] for text in (domain, general))
    dispersions = [[text.dispersion.get(word, 1.0) for word in words] for text in (domain, general)]
    scores = zip(words, *log_odds(in_domain, in_general, *dispersions), strict=True)
    terms = [
        Term(word, float(odds), float(z), domain.counts[word], domain.documents[word], general.counts.get(word, 0))
        for word, odds, z in scores
        if domain.documents.get(word, 0) >= MIN_DOCUMENTS
        and domain.counts[word] >= MIN_COUNT
        and len(word) >= MIN_LETTERS
        and word not in FUNCTION_WORDS
        and np.isfinite(z)
    ]
    terms = sorted(terms, key=lambda term: (-term.z, term.word))
    return terms[: min(_discoveries([term.z for term in terms]), MAX_TERMS)]


def _discoveries(z: Sequence[float]) -> int:
    """How many of these z, descending, are significant one-sided (Benjamini and Hochberg 1995)."""
    p_values = [0.5 * math.erfc(value / math.sqrt(2)) for value in z]
    significant = (k for k, p in enumerate(p_values, 1) if p <= FDR * k / len(z))
    return max(significant, default=0)


def log_odds(
    domain: Sequence[int],
    general: Sequence[int],
    domain_dispersion: Sequence[float] | float = 1.0,
    general_dispersion: Sequence[float] | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds ratio, z) of each word from its counts in both texts, whose pooled words are the prior.

    Variances are multiplied by the dispersions; at 1 they are those of the paper. NaN if either text is empty.
    """
    y_i, y_j = np.asarray(domain, np.float64), np.asarray(general, np.float64)
    n_i, n_j = y_i.sum(), y_j.sum()
    if not n_i or not n_j:
        return np.full(len(y_i), np.nan), np.full(len(y_i), np.nan)
    prior = PRIOR_WORDS * (y_i + y_j) / (n_i + n_j)
    odds_i, odds_j = ((y + prior) / (n + PRIOR_WORDS - y - prior) for y, n in ((y_i, n_i), (y_j, n_j)))
    ratio = np.log(odds_i) - np.log(odds_j)
    variance = np.asarray(domain_dispersion) / (y_i + prior) + np.asarray(general_dispersion) / (y_j + prior)
    return ratio, ratio / np.sqrt(variance)


def rank_statistics(rank: np.ndarray) -> RankStatistics:
    """Statistics of ranks int [n]; those below 1 are not scored and left out."""
    scored = np.sort(np.asarray(rank)[np.asarray(rank) >= 1])
    n, cut = len(scored), int(TRIM * len(scored))
    if not n:
        return RankStatistics(0, np.nan, np.nan, dict.fromkeys(RECALLS, np.nan))
    recall = {k: float(np.mean(scored <= k)) for k in RECALLS}
    return RankStatistics(n, float(np.median(scored)), float(scored[cut : n - cut].mean()), recall)
