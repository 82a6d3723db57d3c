"""The tokens of a scored text as arrays, with the characters of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.corpora.words import of_tokens
from peftodyssey.store import layout, parquet
from peftodyssey.store.query import token_pieces

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Text:
    """One index, row for row; `ids` names the documents."""

    document: np.ndarray  # int32 [rows]
    position: np.ndarray  # int32 [rows]
    token: np.ndarray  # int32 [rows]
    token_class: np.ndarray  # int64 [rows], places in TOKEN_CLASSES
    pieces: list[str]  # characters of each row
    start: np.ndarray  # int32 [rows], characters in the document
    end: np.ndarray
    whole: dict[int, str]  # text of each document
    ids: dict[int, str]

    @cached_property
    def spelled(self) -> dict[int, str]:
        """The characters of each token type where it occurs first."""
        return dict(zip(reversed(self.token.tolist()), reversed(self.pieces), strict=True))

    @cached_property
    def words(self) -> list[str]:
        """The word that each row's first letter stands in, without case; empty where it has none."""
        import numpy as np

        edges = [0, *(np.flatnonzero(np.diff(self.document)) + 1).tolist(), len(self.document)]
        spans = [(a, b, self.whole[int(self.document[a])]) for a, b in pairwise(edges) if a < b]
        return [word for a, b, text in spans for word in of_tokens(text, self.start[a:b], self.end[a:b])]


def reader(folder: Path) -> Callable[[str], Text]:
    """A function that reads each index below `folder` once."""
    return functools.cache(functools.partial(_read, folder))


def _read(folder: Path, name: str) -> Text:
    import numpy as np

    pieces = token_pieces(folder / name)
    index = parquet.read(folder / name / layout.INDEX)
    documents = parquet.read(folder / name / layout.DOCUMENTS)
    numbers = documents["document"].to_pylist()
    places = {label: place for place, label in enumerate(TOKEN_CLASSES)}
    return Text(
        document=pieces["document"].to_numpy(),
        position=pieces["position"].to_numpy(),
        token=pieces["token"].to_numpy(),
        token_class=np.array([places[label] for label in pieces["class"].to_pylist()], np.int64),
        pieces=pieces["text"].to_pylist(),
        start=index["start"].to_numpy(),
        end=index["end"].to_numpy(),
        whole=dict(zip(numbers, documents["text"].to_pylist(), strict=True)),
        ids=dict(zip(numbers, documents["id"].to_pylist(), strict=True)),
    )
