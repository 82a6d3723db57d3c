"""`correlation.parquet`: the change against each measure of similarity.

A point is a text: the change on its test part at the selected learning rate, mean over seeds, against how like the
pretraining text it is. Bases, methods and newline policies are never mixed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.report import result_text
from peftodyssey.stats.correlation import correlation, holm_adjusted
from peftodyssey.stats.similarity import MEASURES
from peftodyssey.store import layout, parquet, tables

Row = dict[str, Any]
SETTING = ("run", "recipe", "model", "revision", "newline")  # which rows of both tables belong together
STATISTICS = ("spearman", "pearson")
SCOPES = ("pooled", "within")


@dataclass(frozen=True)
class Point:
    """One text: its row of similarity, and the rows of results of each seed."""

    text: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def change(self) -> float:
        """Change of test NLL, nats per token, mean over seeds."""
        return statistics.fmean(row["delta_nll"] for row in self.rows)


def write(folder: Path, rows: Sequence[Mapping[str, Any]], similar: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of selected `rows` of results against rows of similarity."""
    found = [
        {**dict(zip(SETTING[1:], key[1:-1], strict=True)), "label": key[-1], **row}
        for key, points in families(rows, similar).items()
        for row in _of_family(points)
    ]
    parquet.write_rows(folder / layout.CORRELATION, found, tables.CORRELATION)


def families(
    rows: Sequence[Mapping[str, Any]], similar: Sequence[Mapping[str, Any]]
) -> dict[tuple[Any, ...], list[Point]]:
    """The points of each base, newline policy and method, by SETTING and the method's label."""
    text_of = {(*_setting(row), row["domain"]): row for row in similar if row["kind"] == "text"}
    picked = [
        row
        for row in result_text.selected_cells(rows)
        if (*_setting(row), row["domain"]) in text_of and row.get("delta_nll") is not None
    ]
    several = {_method(row) for row in picked if len(_rates(row, picked)) > 1}
    found: dict[tuple[Any, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for row in picked:
        label = f"{row['label']} lr={result_text.format_lr(row['lr'])}" if _method(row) in several else row["label"]
        found.setdefault((*_setting(row), label), {}).setdefault(row["domain"], []).append(row)
    return {
        key: [Point(text_of[(*key[:-1], domain)], own) for domain, own in domains.items()]
        for key, domains in found.items()
    }


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in SETTING)


def _method(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*_setting(row), row["label"])


def _rates(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> set[float | None]:
    """The learning rates that a recipe reports of this very cell; one where the rate is tuned."""
    same = ("domain", "seed")
    return {
        other["lr"]
        for other in rows
        if _method(other) == _method(row) and all(other[name] == row[name] for name in same)
    }


def _of_family(points: Sequence[Point]) -> list[Row]:
    """A row for every scope, statistic and measure; the measures of one scope and statistic are Holm's family."""
    made = []
    for scope in SCOPES:
        for statistic in STATISTICS:
            own = [_row(points, measure, statistic, scope) for measure in MEASURES]
            made += [{**row, "p_holm": p} for row, p in zip(own, holm_adjusted([row["p"] for row in own]), strict=True)]
    return made


def _row(points: Sequence[Point], measure: str, statistic: str, scope: str) -> Row:
    known = [point for point in points if point.text.get(measure) is not None]
    group = [point.text["group"] for point in known] if scope == "within" else None
    found = correlation([point.text[measure] for point in known], [point.change for point in known], statistic, group)
    return {
        "measure": measure,
        "statistic": statistic,
        "scope": scope,
        "domains": found.n_points,
        "groups": found.n_groups,
        "r": found.r,
        "lo": found.lower,
        "hi": found.upper,
        "p": found.p_value,
        "left_out_lo": found.leave_one_out_lower,
        "left_out_hi": found.leave_one_out_upper,
        "note": found.note or None,
    }
