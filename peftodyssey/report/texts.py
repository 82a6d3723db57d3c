"""The tokens of a scored text as arrays, with the characters that each stands for. Called by the token tables and evidence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.store import layout, parquet
from peftodyssey.store.query import TOKEN_CLASSES, token_pieces

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
    ids: dict[int, str]

    @cached_property
    def spelled(self) -> dict[int, str]:
        """The characters of each token type where it occurs first."""
        return dict(zip(reversed(self.token.tolist()), reversed(self.pieces), strict=True))


def reader(folder: Path) -> Callable[[str], Text]:
    """A function that reads each index below `folder` once."""
    return functools.cache(functools.partial(_read, folder))


def _read(folder: Path, name: str) -> Text:
    import numpy as np

    pieces = token_pieces(folder / name)
    documents = parquet.read(folder / name / layout.DOCUMENTS)
    places = {label: place for place, label in enumerate(TOKEN_CLASSES)}
    return Text(
        document=pieces["document"].to_numpy(),
        position=pieces["position"].to_numpy(),
        token=pieces["token"].to_numpy(),
        token_class=np.array([places[label] for label in pieces["class"].to_pylist()], np.int64),
        pieces=pieces["text"].to_pylist(),
        ids=dict(zip(documents["document"].to_pylist(), documents["id"].to_pylist(), strict=True)),
    )
