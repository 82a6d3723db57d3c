"""Collects `correlation.parquet`: correlation of degradation with each measure of similarity.

A point is a text: the change on its test part at the selected learning rate (mean over seeds) and its similarity to the
pretraining text. Bases, methods and newline policies are kept apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peftodyssey.display.result_text import Row, columns_of, format_lr, grouped, selected_cells
from peftodyssey.measures.similarity.compute import CORRELATED, PRIMARY
from peftodyssey.measures.similarity.correlation import correlation, holm_adjusted

SETTING = ("run", "recipe", "model", "revision", "newline")  # links rows of results and of similarity
STATISTICS = ("spearman", "pearson")
SCOPES = ("pooled", "within")


@dataclass(frozen=True)
class TextChange:
    """One text: its row of similarity, and the rows of results of each seed."""

    text: Row
    rows: Sequence[Row]

    @property
    def change(self) -> float:
        """Change of test NLL, nats per token, mean over seeds."""
        return statistics.fmean(row["delta_nll"] for row in self.rows)


def rows(results: Sequence[Row], similar: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of the table, in the order of the rows of results; `similar` are those of similarity."""
    return [
        {**dict(zip(SETTING[1:], setting[1:], strict=True)), "label": label, **row}
        for (*setting, label), texts in families(results, similar).items()
        for row in _of_family(texts)
    ]


def families(results: Sequence[Row], similar: Sequence[Row]) -> dict[tuple[Any, ...], list[TextChange]]:
    """The texts of each base, newline policy and method, by SETTING and the method's label."""
    setting = columns_of(*SETTING)
    text_of = {(*setting(row), row["domain"]): row for row in similar if row["kind"] == "text"}
    cells = [
        row
        for row in selected_cells(results)
        if (*setting(row), row["domain"]) in text_of and row.get("delta_nll") is not None
    ]
    # A recipe that does not tune the learning rate may report several of one cell: each is a method of its own.
    cell_groups = grouped(cells, lambda row: (*setting(row), row["label"], row["domain"], row["seed"]))
    several_rates = {key[:-2] for key, group in cell_groups.items() if len({row["lr"] for row in group}) > 1}

    def family(row: Row) -> tuple[Any, ...]:
        key = (*setting(row), row["label"])
        return (*key[:-1], f"{row['label']} lr={format_lr(row['lr'])}") if key in several_rates else key

    return {
        key: [
            TextChange(text_of[(*key[:-1], domain)], seeds)
            for domain, seeds in grouped(own, lambda row: row["domain"]).items()
        ]
        for key, own in grouped(cells, family).items()
    }


def _of_family(texts: Sequence[TextChange]) -> list[dict[str, Any]]:
    """A row per scope, statistic and measure; p-values are adjusted over the measures of one scope and statistic.

    That of the primary test stands alone.
    """
    lines = []
    for scope in SCOPES:
        for statistic in STATISTICS:
            found = [_row(texts, measure, statistic, scope) for measure in CORRELATED]
            family = [row for row in found if not _is_primary(row)]
            adjusted = holm_adjusted([row["p"] for row in family])
            lines += [{**row, "p_holm": row["p"]} for row in found if _is_primary(row)]
            lines += [{**row, "p_holm": p} for row, p in zip(family, adjusted, strict=True)]
    return lines


def _is_primary(row: Row) -> bool:
    return (row["measure"], row["statistic"], row["scope"]) == PRIMARY


def _row(texts: Sequence[TextChange], measure: str, statistic: str, scope: str) -> dict[str, Any]:
    known = [text for text in texts if text.text.get(measure) is not None]
    group = [text.text["group"] for text in known] if scope == "within" else None
    result = correlation([text.text[measure] for text in known], [text.change for text in known], statistic, group)
    return {
        "measure": measure,
        "statistic": statistic,
        "scope": scope,
        "domains": result.n_points,
        "groups": result.n_groups,
        "r": result.r,
        "lo": result.lower,
        "hi": result.upper,
        "p": result.p_value,
        "left_out_lo": result.leave_one_out_lower,
        "left_out_hi": result.leave_one_out_upper,
        "note": result.note or None,
    }
