"""The partitions of a text's tokens that a change of NLL is attributed to: class, place, frequency, base surprisal.

Each gives every row of an index one place in a list of names, so that the sums of `measure.ledger` over it add up to
the whole. Called by the report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora import token_classes

CLASSES: tuple[str, ...] = (
    "newline",
    "space",
    "punctuation",
    "digit",
    "function_word",
    "word_start",
    "continuation",
    "domain_term",
    "special",
    "other",
)
POSITION_STARTS = (1, 4, 16, 64, 256, 1024)
POSITIONS = ("0", "1 to 3", "4 to 15", "16 to 63", "64 to 255", "256 to 1023", "1024 on")
RATES = (10, 100, 1_000, 10_000)  # occurrences in a million tokens
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
    """A factor, the names of its groups, and the group of every row as a place in `names`, int[n]."""

    factor: str
    names: tuple[str, ...]
    label: np.ndarray


def by_class(token_class: np.ndarray, is_term: np.ndarray | None = None) -> Partition:
    """The classes of an index, int[n] places in `corpora.classes.CLASSES`; tokens of words that are domain terms apart.

    `is_term` bool[n]: the token stands in a domain term. Only parts of words that are no function words can be terms.
    """
    place = np.array([CLASSES.index(name) for name in token_classes.TOKEN_CLASSES])
    label = place[np.asarray(token_class)]
    if is_term is not None:
        words = np.isin(token_class, (token_classes.WORD_START, token_classes.CONTINUATION))
        label = np.where(words & is_term, CLASSES.index("domain_term"), label)
    return Partition("class", CLASSES, label)


def by_position(position: np.ndarray) -> Partition:
    """By the token's place in its document, int[n] from 0, in bins that grow fourfold."""
    return Partition("position", POSITIONS, np.searchsorted(POSITION_STARTS, position, side="right"))


def by_frequency(token: np.ndarray, counts: np.ndarray) -> Partition:
    """By how often the token type, int[n], occurs in a sample of the pretraining text; `counts` int[vocabulary]."""
    token = np.asarray(token)
    seen = np.where(token < len(counts), counts[np.minimum(token, len(counts) - 1)], 0)
    rate = seen * 1e6 / max(1, int(counts.sum()))
    return Partition("frequency", FREQUENCIES, np.where(seen > 0, 1 + np.searchsorted(RATES, rate, side="right"), 0))


def by_surprisal(before_nats: np.ndarray) -> Partition:
    """By decile of the base's NLL: as many scored rows in each, ties in the order of the rows; NaN rows are in the
    first.

    The deciles are those of a noisy number: tokens that the base found hard tend to fall, and easy ones to rise,
    whatever the adaptation did.
    """
    scored = np.flatnonzero(~np.isnan(before_nats))
    label = np.zeros(len(before_nats), np.int64)
    order = scored[np.argsort(np.asarray(before_nats)[scored], kind="stable")]
    label[order] = np.arange(len(order)) * len(DECILES) // max(1, len(order))
    return Partition("surprisal", DECILES, label)
