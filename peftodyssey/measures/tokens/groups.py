"""Partitions of a text's tokens by which a change in NLL is broken down: class, position, frequency, base surprisal.

Each assigns every row of a token index to one group, so that the sums of `stats.token_breakdown` add up to the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora import token_classes

_SIGNS = token_classes.TOKEN_CLASSES.index("special")
CLASSES = (*token_classes.TOKEN_CLASSES[:_SIGNS], "domain_term", *token_classes.TOKEN_CLASSES[_SIGNS:])
POSITION_STARTS = (1, 4, 16, 64, 256, 1024)
POSITIONS = ("0", "1 to 3", "4 to 15", "16 to 63", "64 to 255", "256 to 1023", "1024 on")
RATES = (10, 100, 1_000, 10_000)  # occurrences per million tokens
FREQUENCIES = (
    "not in the sample",
    "under 10 in a million",
    "10 to 100",
    "100 to 1,000",
    "1,000 to 10,000",
    "10,000 in a million on",
)
DECILES = ("1 (surest)", "2", "3", "4", "5", "6", "7", "8", "9", "10 (least sure)")


@dataclass(frozen=True)
class Partition:
    """A factor, the names of its groups, and the group of every row as an index into `names`, int [n]."""

    factor: str
    names: tuple[str, ...]
    label: np.ndarray


def by_class(token_class: np.ndarray, is_term: np.ndarray | None = None) -> Partition:
    """By class of token, int [n] indices into `corpora.token_classes.CLASSES`; domain terms are a further class.

    `is_term` bool [n]: the token is part of a domain term. Only word starts and continuations can be.
    """
    class_number = np.array([CLASSES.index(name) for name in token_classes.TOKEN_CLASSES])
    label = class_number[np.asarray(token_class)]
    if is_term is not None:
        words = np.isin(token_class, (token_classes.WORD_START, token_classes.CONTINUATION))
        label = np.where(words & is_term, CLASSES.index("domain_term"), label)
    return Partition("class", CLASSES, label)


def by_position(position: np.ndarray) -> Partition:
    """By the token's position in its document, int [n] from 0, in bins that grow fourfold."""
    return Partition("position", POSITIONS, np.searchsorted(POSITION_STARTS, position, side="right"))


def by_frequency(token: np.ndarray, counts: np.ndarray) -> Partition:
    """By how often the token type, int [n], occurs in a sample of the pretraining text; `counts` int [vocabulary]."""
    token = np.asarray(token)
    seen = np.where(token < len(counts), counts[np.minimum(token, len(counts) - 1)], 0)
    rate = seen * 1e6 / max(1, int(counts.sum()))
    return Partition("frequency", FREQUENCIES, np.where(seen > 0, 1 + np.searchsorted(RATES, rate, side="right"), 0))


def by_surprisal(before_nats: np.ndarray) -> Partition:
    """By decile of the base's NLL, equally many scored rows in each, ties in row order; NaN rows are in the first.

    The base's NLL is noisy, so there is regression to the mean: hard tokens tend to fall and easy ones to rise whatever
    the adaptation did.
    """
    scored = np.flatnonzero(~np.isnan(before_nats))
    label = np.zeros(len(before_nats), np.int64)
    order = scored[np.argsort(np.asarray(before_nats)[scored], kind="stable")]
    label[order] = np.arange(len(order)) * len(DECILES) // max(1, len(order))
    return Partition("surprisal", DECILES, label)
