"""What a cell's change consists of, as the page shows it token by token: breakdowns, token types, the worst passage.

Breakdowns are rows of `token_breakdown.parquet`; the passage comes from two NLL columns and the documents of their
index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftodyssey.display.result_text import Row, grouped, selected_cells, setting
from peftodyssey.display.token_text import Text
from peftodyssey.measures.tokens.concentration import PerplexityWithout, lorenz, without_worst
from peftodyssey.measures.tokens.passages import Passage, worst_passages
from peftodyssey.measures.tokens.sentences import TokenTables, cell_key, domain_key
from peftodyssey.store.stored_run import nll_column

TOP_TOKENS = 50
LEFT_OUT = (1, 10, 100)  # numbers of worst token types without which perplexity is stated
PASSAGE_TOKENS = 120
FULL_SHADE_NATS = 4.0  # a token that changed by this much has the strongest colour


@dataclass(frozen=True)
class Piece:
    """One token of a passage: change in nats (None: not scored), and shade from -1 (better) to 1 (worse)."""

    text: str
    delta: float | None
    shade: float


@dataclass(frozen=True)
class Evidence:
    """What one cell's change on test consists of: its row of results, and rows of the token tables."""

    row: Row
    breakdown: Mapping[str, Sequence[Row]]  # by factor
    concentration: Mapping[str, Row]  # by unit
    ranks: Mapping[str, Row]  # by positions
    terms: Sequence[Row]  # of its domain
    passage: tuple[Piece, ...]
    passage_delta: float | None  # nats per token
    passage_document: str

    @property
    def types(self) -> Sequence[Row]:
        """The token types, the largest rise first."""
        return self.breakdown["token"]

    @property
    def largest(self) -> list[Row]:
        """The token types with the largest absolute summed change."""
        return sorted(self.types, key=lambda row: (-abs(row["sum_nats"]), row["token"]))[:TOP_TOKENS]

    @property
    def lorenz(self) -> list[tuple[float, float]]:
        """Points (share of the token types, share of the rise), largest rise first."""
        return lorenz(np.array([row["sum_nats"] for row in self.types]))

    @property
    def without_worst(self) -> list[PerplexityWithout]:
        """Both perplexities with all token types (k = 0) and without the worst ones."""
        tokens, before, after = (
            np.array([row[name] for row in self.types]) for name in ("tokens", "nll_before", "nll_after")
        )
        return without_worst(tokens, before * tokens, after * tokens, (0, *LEFT_OUT))

    @property
    def total_nats(self) -> float:
        """The whole change summed over test, nats."""
        return sum(row["sum_nats"] for row in self.breakdown["class"])

    @property
    def total_tokens(self) -> int:
        """Scored tokens of test."""
        return sum(row["tokens"] for row in self.breakdown["class"])


def evidence_of_run(
    folder: Path,
    rows: Sequence[Row],
    tables: TokenTables,
    cells: Mapping[tuple[str, str], Row],
    text_of: Callable[[str], Text],
) -> list[Evidence]:
    """Evidence of the selected cells of a run whose tokens were measured, of the first seed of each."""
    measured = [row for row in selected_cells(rows) if cell_key(row) in tables.breakdown]
    groups = grouped(measured, lambda row: (*setting(row), row["label"])).values()
    return [_evidence(folder, cells[row["cell"], row["recipe"]], row, tables, text_of) for row, *_ in groups]


def _evidence(folder: Path, cell: Row, row: Row, tables: TokenTables, text_of: Callable[[str], Text]) -> Evidence:
    paths, key = cell["scores"]["test"], cell_key(row)
    text = text_of(paths["index"])
    delta = nll_column(folder / paths["after"]) - nll_column(folder / paths["before"])
    worst = next(iter(worst_passages(delta, text.document, width=PASSAGE_TOKENS)), None)
    return Evidence(
        row,
        grouped(tables.breakdown[key], lambda entry: str(entry["factor"])),
        {entry["unit"]: entry for entry in tables.concentration[key]},
        {entry["positions"]: entry for entry in tables.ranks[key]},
        tables.terms.get(domain_key(row), ()),
        _pieces(delta, text, worst) if worst else (),
        worst.mean_delta if worst else None,
        str(text.document_id[worst.document]) if worst else "",
    )


def _pieces(delta: np.ndarray, text: Text, passage: Passage) -> tuple[Piece, ...]:
    span = slice(passage.first, passage.last + 1)
    changes = [None if np.isnan(value) else float(value) for value in delta[span]]
    return tuple(
        Piece(piece, change, max(-1.0, min(1.0, (change or 0.0) / FULL_SHADE_NATS)))
        for piece, change in zip(text.pieces[span], changes, strict=True)
    )
