"""What a cell's change consists of, for the page: token breakdown, token types, worst passage.

The ledgers are those of `token_breakdown.parquet`; the passage is cut from two NLL columns and the documents of their
index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.report.collect_tokens import column
from peftodyssey.report.token_sentences import Tables, domain_key, key
from peftodyssey.report.token_text import Text
from peftodyssey.stats import passages
from peftodyssey.stats.concentration import PerplexityWithout, lorenz, without_worst

TOP_TOKENS = 50
LEFT_OUT = (1, 10, 100)  # worst token types without which perplexity is stated
PASSAGE_TOKENS = 120
FULL_SHADE_NATS = 4.0  # a token that changed by this much has the strongest colour

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """One token of a passage. `delta` in nats, None where it is not scored; `shade` -1 (better) .. 1 (worse)."""

    text: str
    delta: float | None
    shade: float


@dataclass(frozen=True)
class Evidence:
    """What one cell's change on test is made of. `row` is its row of results; the others are rows of their tables."""

    row: Row
    ledger: Mapping[str, Sequence[Row]]  # by factor
    concentration: Mapping[str, Row]  # by unit
    ranks: Mapping[str, Row]  # by positions
    terms: Sequence[Row]  # of its domain
    passage: tuple[Piece, ...]
    passage_delta: float | None  # nats per token
    passage_document: str

    @property
    def types(self) -> Sequence[Row]:
        """The token types, the largest rise first."""
        return self.ledger["token"]

    @property
    def largest(self) -> list[Row]:
        """The token types with the largest summed change, either way."""
        return sorted(self.types, key=lambda row: (-abs(row["sum_nats"]), row["token"]))[:TOP_TOKENS]

    @property
    def lorenz(self) -> list[tuple[float, float]]:
        """(share of the token types, share of the rise that they carry), largest first."""
        return lorenz(np.array([row["sum_nats"] for row in self.types]))

    @property
    def without_worst(self) -> list[PerplexityWithout]:
        """Both perplexities without the worst token types, and with all of them (k = 0)."""
        tokens, before, after = (
            np.array([row[name] for row in self.types]) for name in ("tokens", "nll_before", "nll_after")
        )
        return without_worst(tokens, before * tokens, after * tokens, (0, *LEFT_OUT))

    @property
    def total_nats(self) -> float:
        """The whole change summed over test, nats."""
        return sum(row["sum_nats"] for row in self.ledger["class"])

    @property
    def total_tokens(self) -> int:
        """Tokens of test that are scored."""
        return sum(row["tokens"] for row in self.ledger["class"])


def evidence(folder: Path, cell: Row, row: Row, tables: Tables, text_of: Callable[[str], Text]) -> Evidence:
    """The evidence of one finished cell of a plan, whose row of results is `row`."""
    paths = cell["scores"]["test"]
    text = text_of(paths["index"])
    delta = column(folder / paths["after"]) - column(folder / paths["before"])
    found = passages.worst_passages(delta, text.document, width=PASSAGE_TOKENS)
    factors: dict[str, list[Row]] = {}
    for entry in tables.ledger[key(row)]:
        factors.setdefault(entry["factor"], []).append(entry)
    return Evidence(
        row,
        factors,
        {entry["unit"]: entry for entry in tables.concentration[key(row)]},
        {entry["positions"]: entry for entry in tables.ranks[key(row)]},
        tables.terms.get(domain_key(row), ()),
        _pieces(delta, text, found[0]) if found else (),
        found[0].mean_delta if found else None,
        str(text.ids[found[0].document]) if found else "",
    )


def _pieces(delta: np.ndarray, text: Text, passage: passages.Passage) -> tuple[Piece, ...]:
    span = range(passage.first, passage.last + 1)
    values = [None if delta[place] != delta[place] else float(delta[place]) for place in span]
    shades = [max(-1.0, min(1.0, (value or 0.0) / FULL_SHADE_NATS)) for value in values]
    return tuple(
        Piece(text.pieces[place], value, shade) for place, value, shade in zip(span, values, shades, strict=True)
    )
