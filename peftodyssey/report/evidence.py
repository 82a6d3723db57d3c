"""What a cell's change is made of: classes, token types, the worst passage. Called by `report.build` for selected cells.

Reads two NLL columns and the index they stand on; text comes from the index's own documents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.measure import ledger, passages
from peftodyssey.store import parquet
from peftodyssey.store.query import TOKEN_CLASSES, token_pieces

if TYPE_CHECKING:
    import numpy as np

TOP_TOKENS = 50
PASSAGE_TOKENS = 120
FULL_SHADE_NATS = 4.0  # a token that changed by this much has the strongest colour


@dataclass(frozen=True)
class Token:
    """One token type: its text, how often it is scored, mean NLL before and after, and its part of the change in nats."""

    text: str
    count: int
    mean_before: float
    mean_after: float
    sum_nats: float


@dataclass(frozen=True)
class Piece:
    """One token of a passage. `delta` in nats, None where it is not scored; `shade` -1 (better) .. 1 (worse)."""

    text: str
    delta: float | None
    shade: float


@dataclass(frozen=True)
class Evidence:
    """What one cell's change on test is made of. `row` is its row of results."""

    row: Mapping[str, Any]
    classes: tuple[ledger.LedgerRow, ...]
    tokens: tuple[Token, ...]
    passage: tuple[Piece, ...]
    passage_delta: float | None  # nats per token
    passage_document: str

    @property
    def total_nats(self) -> float:
        """The whole change summed over test, nats."""
        return sum(row.sum_nats for row in self.classes)

    @property
    def total_tokens(self) -> int:
        """Tokens of test that are scored."""
        return sum(row.tokens for row in self.classes)


Index = dict[str, Any]


def reader(folder: Path) -> Callable[[str], Index]:
    """A function that reads an index once: `token, class, document` arrays and `text` of every row, `ids` of documents."""

    @functools.cache
    def read(name: str) -> Index:
        pieces = token_pieces(folder / name)
        documents = parquet.read(folder / name / "documents.parquet")
        numbers = {label: place for place, label in enumerate(TOKEN_CLASSES)}
        return {
            "document": pieces["document"].to_numpy(),
            "token": pieces["token"].to_numpy(),
            "class": [numbers[label] for label in pieces["class"].to_pylist()],
            "text": pieces["text"].to_pylist(),
            "ids": dict(zip(documents["document"].to_pylist(), documents["id"].to_pylist(), strict=True)),
        }

    return read


def evidence(
    folder: Path, cell: Mapping[str, Any], row: Mapping[str, Any], index_of: Callable[[str], Index]
) -> Evidence:
    """The evidence of one finished cell of a plan."""
    import numpy as np

    paths = cell["scores"]["test"]
    index = index_of(paths["index"])
    before, after = (
        parquet.read_nll(folder / paths[key])[0].astype(np.float64) for key in ("before", "after")
    )
    delta = after - before
    classes = ledger.by_class(delta, np.asarray(index["class"]), TOKEN_CLASSES)
    found = passages.worst(delta, index["document"], width=PASSAGE_TOKENS)
    return Evidence(
        row,
        tuple(entry for entry in classes if entry.tokens),
        _tokens(before, after, index),
        _pieces(delta, index, found[0]) if found else (),
        found[0].mean_delta if found else None,
        str(index["ids"][found[0].document]) if found else "",
    )


def _tokens(before: np.ndarray, after: np.ndarray, index: Index) -> tuple[Token, ...]:
    """The token types with the largest summed change, either way."""
    worse, better = ledger.top_tokens(before, after, index["token"], TOP_TOKENS)
    ranked = sorted([*worse, *better], key=lambda entry: (-abs(entry.sum_nats), entry.token))[:TOP_TOKENS]
    text = dict(
        zip(reversed(index["token"].tolist()), reversed(index["text"]), strict=True)
    )  # its first occurrence
    return tuple(
        Token(text[entry.token], entry.count, entry.mean_before, entry.mean_after, entry.sum_nats)
        for entry in ranked
    )


def _pieces(delta: np.ndarray, index: Index, passage: passages.Passage) -> tuple[Piece, ...]:
    span = range(passage.first, passage.last + 1)
    values = [None if delta[place] != delta[place] else float(delta[place]) for place in span]
    shades = [max(-1.0, min(1.0, (value or 0.0) / FULL_SHADE_NATS)) for value in values]
    return tuple(
        Piece(index["text"][place], value, shade)
        for place, value, shade in zip(span, values, shades, strict=True)
    )
