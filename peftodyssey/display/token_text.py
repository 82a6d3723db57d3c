"""The tokens of a scored text as arrays, with the characters that each stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.corpora.words import of_tokens
from peftodyssey.store import layout, parquet
from peftodyssey.store.query import token_pieces

WHITE_SPACE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}

LONGEST = 60  # characters of a token that are shown


def visible(text: str) -> str:
    """A token's text with its white space as signs, cut where it is long; a note if it is not a whole character."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return "".join(WHITE_SPACE.get(character, character) for character in text) or "(part of a character)"


@dataclass(frozen=True)
class Text:
    """One token index, row for row."""

    document: np.ndarray  # int32 [rows]
    position: np.ndarray  # int32 [rows]
    token: np.ndarray  # int32 [rows]
    token_class: np.ndarray  # int64 [rows], indices into TOKEN_CLASSES
    pieces: list[str]  # characters of each row
    start: np.ndarray  # int32 [rows], characters in the document
    end: np.ndarray
    document_text: dict[int, str]
    document_id: dict[int, str]

    @cached_property
    def type_text(self) -> dict[int, str]:
        """The characters of each token type at its first occurrence."""
        return dict(zip(reversed(self.token.tolist()), reversed(self.pieces), strict=True))

    @cached_property
    def words(self) -> list[str]:
        """The word, in lower case, that contains each row's first letter; empty if it has none."""
        edges = [0, *(np.flatnonzero(np.diff(self.document)) + 1).tolist(), len(self.document)]
        spans = [(a, b, self.document_text[int(self.document[a])]) for a, b in pairwise(edges) if a < b]
        return [word for a, b, text in spans for word in of_tokens(text, self.start[a:b], self.end[a:b])]


def text_reader(folder: Path) -> Callable[[str], Text]:
    """A function that reads each index below `folder` once."""
    return functools.cache(functools.partial(_read, folder))


def _read(folder: Path, name: str) -> Text:
    pieces = token_pieces(folder / name)
    index = parquet.read(folder / name / layout.INDEX)
    documents = parquet.read(folder / name / layout.DOCUMENTS)
    numbers = documents["document"].to_pylist()
    class_number = {label: number for number, label in enumerate(TOKEN_CLASSES)}
    return Text(
        document=pieces["document"].to_numpy(),
        position=pieces["position"].to_numpy(),
        token=pieces["token"].to_numpy(),
        token_class=np.array([class_number[label] for label in pieces["class"].to_pylist()], np.int64),
        pieces=pieces["text"].to_pylist(),
        start=index["start"].to_numpy(),
        end=index["end"].to_numpy(),
        document_text=dict(zip(numbers, documents["text"].to_pylist(), strict=True)),
        document_id=dict(zip(numbers, documents["id"].to_pylist(), strict=True)),
    )
