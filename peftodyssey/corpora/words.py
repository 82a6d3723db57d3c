"""The words of a text, and the word that each token stands in: the same for every tokenizer. Called by the report.

A word is a longest run of letters, digits and apostrophes between letters that holds a letter, compared without case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftodyssey.corpora.token_classes import LETTER, character_kinds, effective_spans, in_word

if TYPE_CHECKING:
    import numpy as np


def counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in `texts`."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update(_spelled(text, *_spans(text)[:2]))
    return found


def of_tokens(text: str, starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """The word in which each token's first letter stands; empty where it has none. `starts`, `ends`: character offsets."""
    import numpy as np

    begins, stops, letters = _spans(text)
    if not len(letters):
        return [""] * len(starts)
    words = [*_spelled(text, begins, stops), ""]
    first, last = effective_spans(starts, ends)
    place = np.searchsorted(letters, first)
    letter = letters[np.minimum(place, len(letters) - 1)]
    has_letter = (place < len(letters)) & (letter < last)
    number = np.where(has_letter, np.searchsorted(begins, letter, side="right") - 1, len(begins))
    return [words[n] for n in number]


def _spelled(text: str, begins: np.ndarray, stops: np.ndarray) -> list[str]:
    return [text[a:b].casefold() for a, b in zip(begins.tolist(), stops.tolist(), strict=True)]


def _spans(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where words begin and end, and where letters are, as characters of `text`."""
    import numpy as np

    kinds = character_kinds(text)
    letters = np.flatnonzero(kinds == LETTER)
    edges = np.diff(np.concatenate([[0], in_word(text, kinds).view(np.int8), [0]]))
    begins, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    holds = np.searchsorted(letters, stops) > np.searchsorted(letters, begins)
    return begins[holds], stops[holds], letters
