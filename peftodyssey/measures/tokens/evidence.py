"""What a cell's change consists of, as the page shows it in tables: rows of the token tables of one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.display.result_text import Row, grouped, selected_cells, setting
from peftodyssey.measures.tokens.concentration import PerplexityWithout, lorenz, without_worst
from peftodyssey.measures.tokens.sentences import TokenTables, cell_key, domain_key

TOP_TOKENS = 50
LEFT_OUT = (1, 10, 100)  # numbers of worst token types without which perplexity is stated


@dataclass(frozen=True)
class Evidence:
    """What one cell's change on test consists of: its row of results, and rows of the token tables."""

    row: Row
    breakdown: Mapping[str, Sequence[Row]]  # by factor
    concentration: Mapping[str, Row]  # by unit
    ranks: Mapping[str, Row]  # by positions
    terms: Sequence[Row]  # of its domain

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


def evidence_of_run(rows: Sequence[Row], tables: TokenTables) -> list[Evidence]:
    """Evidence of the selected cells of a run whose tokens were measured, of the first seed of each."""
    measured = [row for row in selected_cells(rows) if cell_key(row) in tables.breakdown]
    groups = grouped(measured, lambda row: (*setting(row), row["label"])).values()
    return [_evidence(row, tables) for row, *_ in groups]


def _evidence(row: Row, tables: TokenTables) -> Evidence:
    key = cell_key(row)
    return Evidence(
        row,
        grouped(tables.breakdown[key], lambda entry: str(entry["factor"])),
        {entry["unit"]: entry for entry in tables.concentration[key]},
        {entry["positions"]: entry for entry in tables.ranks[key]},
        tables.terms.get(domain_key(row), ()),
    )
