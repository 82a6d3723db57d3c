"""Collects the words on which a cell got worse and better, on the text adapted to and on general text.

A word's change is that of all tokens that hold one of its letters' first; what is no word is listed by its characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from peftodyssey.display.token_text import Text
from peftodyssey.stats.paired_difference import paired_differences
from peftodyssey.store.stored_run import Cell, StoredRun, document_clusters

Row = dict[str, Any]
LISTED = 40  # words of each list
MIN_CLUSTERS = 8  # a word that occurs in fewer effective clusters has no interval


@dataclass(frozen=True)
class WordText:
    """One text, or several together, by words."""

    names: list[str]  # of the words
    word: np.ndarray  # int64 [rows], indices into `names`
    starts: np.ndarray  # bool [rows]: an occurrence of a word begins here
    cluster: np.ndarray  # int64 [rows]
    index: np.ndarray  # int64 [rows], which text
    document: np.ndarray  # int32 [rows]
    position: np.ndarray  # int32 [rows]

    @cached_property
    def _by_word(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows in the order of their words, and where each word begins there."""
        order = np.argsort(self.word, kind="stable")
        return order, np.searchsorted(self.word[order], np.arange(len(self.names) + 1))

    def rows_of(self, word: int) -> np.ndarray:
        """The rows of a word, int64, ascending."""
        order, begins = self._by_word
        return order[begins[word] : begins[word + 1]]


def rows(run: StoredRun, cells: Sequence[Cell], text_of: Any) -> Iterator[Row]:
    """Both lists of each cell and split."""
    known: dict[tuple[str, ...], WordText] = {}
    for cell in cells:
        for split, texts in (("test", [cell["scores"]["test"]]), ("general", cell["scores"].get("general") or ())):
            names = tuple(text["index"] for text in texts)
            if names and names not in known:
                known[names] = word_text([text_of(name) for name in names], [document_clusters(run, n) for n in names])
            if names:
                identity = {"cell": cell["cell"], "recipe": cell["recipe"], "split": split}
                yield from ({**identity, **row} for row in _lists(run, texts, known[names]))


def word_text(texts: Sequence[Text], clusters: Sequence[np.ndarray]) -> WordText:
    """Texts by words; `clusters` numbers the cluster of each document of each text."""
    spelled, starts, numbers, first = [], [], [], 0
    for text, of_document in zip(texts, clusters, strict=True):
        words = [word or piece.strip() or piece for word, piece in zip(text.words, text.pieces, strict=True)]
        new_document = np.diff(text.document, prepend=-1) != 0
        changed = np.array([True, *(a != b for a, b in pairwise(words))]) if words else np.zeros(0, bool)
        spelled += words
        starts.append(changed | new_document | np.array([piece[:1].isspace() for piece in text.pieces], bool))
        numbers.append(of_document[text.document] + first)
        first += int(of_document.max(initial=-1)) + 1
    names, word = np.unique(np.array(spelled, dtype=object), return_inverse=True)
    return WordText(
        names.tolist(),
        word,
        np.concatenate(starts),
        np.concatenate(numbers),
        np.repeat(np.arange(len(texts)), [len(text.document) for text in texts]),
        np.concatenate([text.document for text in texts]),
        np.concatenate([text.position for text in texts]),
    )


def _lists(run: StoredRun, texts: Sequence[Mapping[str, Any]], text: WordText) -> Iterator[Row]:
    before, after = (np.concatenate([run.read(one[s], "nll_nats") for one in texts]) for s in ("before", "after"))
    delta = after - before
    scored = ~np.isnan(delta)
    change = np.where(scored, delta, 0.0)
    n = len(text.names)
    rise, fall = (np.bincount(text.word, signed, n) for signed in (np.maximum(change, 0), np.minimum(change, 0)))
    sums = rise + fall
    order = np.argsort(-sums, kind="stable")
    for direction, listed in (("worse", order[:LISTED]), ("better", order[::-1][:LISTED])):
        sign = 1 if direction == "worse" else -1
        found = [word for word in listed.tolist() if sign * sums[word] > 0]
        for place, word in enumerate(found, start=1):
            at = text.rows_of(word)
            at = at[scored[at]]
            row = {"direction": direction, "place": place, "word": text.names[word]}
            row |= {"sum_nats": sums[word], "rise_nats": rise[word], "fall_nats": fall[word]}
            example = at[int(np.argmax(sign * delta[at]))]
            row["text"] = texts[int(text.index[example])]["index"]
            row |= {"document": int(text.document[example]), "position": int(text.position[example])}
            yield row | _of_word(text, at, before, after)


def _of_word(text: WordText, at: np.ndarray, before: np.ndarray, after: np.ndarray) -> Row:
    """The word at the rows `at`: how often it occurs, and its mean change with interval."""
    mean, lower, upper = mean_change((after - before)[at], text.cluster[at])
    return {
        "occurrences": int(text.starts[at].sum()),
        "tokens": len(at),
        "documents": len(np.unique(np.stack([text.index[at], text.document[at]]), axis=1).T),
        "nll_before": float(before[at].mean()),
        "nll_after": float(after[at].mean()),
        "change": mean,
        "change_lo": lower,
        "change_hi": upper,
    }


def mean_change(delta: np.ndarray, cluster: np.ndarray) -> tuple[float, float | None, float | None]:
    """The mean of float64 [tokens] with its 95 % interval over the clusters in which they occur."""
    _, number = np.unique(cluster, return_inverse=True)
    sums, tokens = np.bincount(number, delta), np.bincount(number).astype(np.float64)
    [found] = paired_differences(sums[:, None], tokens, min_clusters=MIN_CLUSTERS)
    return found.estimate, found.lower, found.upper
