"""Which documents of a text stand in another one: word for word, or for the most part.

Two documents are the same where their texts differ in white space alone. A document is nearly contained in a text where
half of its windows of eight words occur there, case and punctuation aside; a window that many documents have (a
licence, an instruction that all prompts share) tells nothing and is left out. Containment, not the similarity of two
documents, because a test document inside a longer training document has been trained on as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WINDOW = 8  # words
NEARLY = 0.5  # share of its windows from which a document counts as contained
SHARED_DOCUMENTS, SHARED_PART = 10, 0.01  # a window in more documents than both (count, share) is left out
WARNED_SHARE = 0.01  # of documents in another text from which it is warned of
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: each character is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
Texts = Iterable[tuple[str, str]]  # (key of `documents.text_key`, text)


@dataclass(frozen=True)
class Overlap:
    """How many documents of a text stand in another: the same ones, and those that are nearly contained."""

    documents: int
    exact: int
    near: int

    @property
    def share(self) -> float:
        """Of both kinds, 0 to 1."""
        return (self.exact + self.near) / self.documents if self.documents else 0.0


def sentence(text: str, other: str, found: Overlap) -> str:
    """What was found of one pair of texts."""
    return (
        f"{text}: {found.share:.1%} of {found.documents:,} documents stand in {other} "
        f"({found.exact:,} word for word, {found.near:,} for the most part)"
    )


class Windows:
    """Windows of words as hashes of 64 bits, the same in every process."""

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}

    def of(self, text: str) -> np.ndarray:
        """uint64, ascending, each once. A text of fewer words than a window is one window, of no words none."""
        words = [self._hash(word) for word in _WORD.findall(text.casefold())]
        if not words:
            return np.zeros(0, np.uint64)
        row = np.array(words, np.uint64)
        size = min(WINDOW, len(row))
        rolled = np.full(len(row) - size + 1, size, np.uint64)
        for place in range(size):
            rolled = rolled * _FACTOR + row[place : len(row) - size + 1 + place]
        return np.unique(rolled)

    def _hash(self, word: str) -> int:
        if (known := self._hashes.get(word)) is None:
            known = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
            self._hashes[word] = known
        return known


class Reference:
    """A text in which others are looked for."""

    def __init__(self, texts: Texts) -> None:
        self._windows, self._keys, rows = Windows(), set[str](), [np.zeros(0, np.uint64)]
        for key, text in texts:
            if key not in self._keys:
                self._keys.add(key)
                rows.append(self._windows.of(text))
        every = np.concatenate(rows)
        held, documents = np.unique(every, return_counts=True)
        shared = documents > max(SHARED_DOCUMENTS, SHARED_PART * len(self._keys))
        self._held, self._shared = held[~shared], held[shared]
        self._every, self._owner = every, np.repeat(np.arange(len(rows)), [len(row) for row in rows])

    def contains(self, key: str, text: str) -> str | None:
        """`exact` or `near` where the document stands in this text, else None."""
        if key in self._keys:
            return "exact"
        windows = self._windows.of(text)
        windows = windows[~_among(windows, self._shared)]
        return "near" if len(windows) and _among(windows, self._held).mean() >= NEARLY else None

    def has_one_in(self, text: str) -> bool:
        """Whether one of its documents stands in `text` for the most part."""
        windows, owner, sizes = self._by_window
        asked = self._windows.of(text)
        begin, end = (np.searchsorted(windows, asked, side) for side in ("left", "right"))
        found = [owner[b:e] for b, e in zip(begin, end, strict=True) if e > b]
        return bool(found) and bool((np.bincount(np.concatenate(found), minlength=len(sizes)) >= NEARLY * sizes).any())

    @cached_property
    def _by_window(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows that tell something, ascending, with repetitions; the document of each; windows of each document."""
        telling = ~_among(self._every, self._shared)
        windows, owner = self._every[telling], self._owner[telling]
        order = np.argsort(windows, kind="stable")
        sizes = np.bincount(owner, minlength=int(self._owner.max(initial=0)) + 1)
        return windows[order], owner[order], np.maximum(sizes, 1)

    def overlap(self, texts: Texts) -> Overlap:
        """How many of `texts` stand here."""
        found = [self.contains(key, text) for key, text in texts]
        return Overlap(len(found), found.count("exact"), found.count("near"))


def first_characters(texts: Texts, characters: int) -> Iterator[tuple[str, str]]:
    """Texts from the front until they have so many characters; the last one may exceed it, one alone is cut at it."""
    for key, text in texts:
        yield key, text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _among(windows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """bool [windows]: which of them are in `held`, which is ascending."""
    if not len(held):
        return np.zeros(len(windows), bool)
    place = np.minimum(np.searchsorted(held, windows), len(held) - 1)
    return np.asarray(held[place] == windows)
