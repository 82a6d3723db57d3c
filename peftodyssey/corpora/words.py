"""The words of a text, and the word to which each token belongs: the same for every tokenizer.

A word is a longest run of letters, digits and apostrophes between letters that holds a letter, compared without case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from peftodyssey.corpora.token_classes import LETTER, character_kinds, effective_spans, in_word


def counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in `texts`."""
    total: Counter[str] = Counter()
    for text in texts:
        total.update(_spelled(text, *_spans(text)[:2]))
    return total


def of_tokens(text: str, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """The word that holds each token's first letter; empty where it has none. `starts`, `ends`: character offsets."""
    word_starts, word_ends, letters = _spans(text)
    if not len(letters):
        return [""] * len(starts)
    words = [*_spelled(text, word_starts, word_ends), ""]
    first, last = effective_spans(starts, ends)
    following = np.searchsorted(letters, first)  # the first letter at or after the token's start
    letter = letters[np.minimum(following, len(letters) - 1)]
    has_letter = (following < len(letters)) & (letter < last)
    number = np.where(has_letter, np.searchsorted(word_starts, letter, side="right") - 1, len(word_starts))
    return [words[n] for n in number]


def _spelled(text: str, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    return [text[start:end].casefold() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _spans(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where words begin and end, and where letters are, as characters of `text`."""
    kinds = character_kinds(text)
    letters = np.flatnonzero(kinds == LETTER)
    edges = np.diff(np.concatenate([[0], in_word(text, kinds).view(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    has_letter = np.searchsorted(letters, ends) > np.searchsorted(letters, starts)
    return starts[has_letter], ends[has_letter], letters
