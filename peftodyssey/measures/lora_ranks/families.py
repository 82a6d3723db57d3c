"""Cells that differ in their rank only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.display.rank_labels import alpha_rules, label_without_rank
from peftodyssey.display.result_text import Row, grouped, method_name, selected_cells, setting

MIN_RANKS = 3  # for a statement


@dataclass(frozen=True)
class Family:
    """Cells that differ in rank, seed and learning rate only, at their selected learning rates."""

    rows: Sequence[Row]
    alpha: str  # the rule 2r, or a number

    @property
    def label(self) -> str:
        """The method's label without its rank."""
        return label_without_rank(self.rows[0])

    @property
    def name(self) -> str:
        """Method, its other options and the alpha rule in words."""
        return f"{method_name({**self.rows[0], 'label': self.label})}, alpha {self.alpha}"

    @property
    def ranks(self) -> list[int]:
        """The ranks, ascending."""
        return sorted({row["rank"] for row in self.rows})


def families(rows: Sequence[Row]) -> list[Family]:
    """The families with at least MIN_RANKS ranks, of rows of results."""
    adapters = [row for row in selected_cells(rows) if row.get("rank") and row["method"] in ("lora", "qlora")]
    by_family = grouped(
        [(row, rule) for row in adapters for rule in alpha_rules(row)],
        lambda pair: (*setting(pair[0]), _options(pair[0]), pair[1]),
    )
    found = [Family([row for row, _ in pairs], str(key[-1])) for key, pairs in by_family.items()]
    return [family for family in found if len(family.ranks) >= MIN_RANKS]


def _options(row: Row) -> tuple[str, ...]:
    return str(row["method"]), label_without_rank(row), str(row.get("quant")), str(row.get("targets"))
