"""The effect of adapting to one text on the others: a sentence per method, a heat map and a table.

Pairs are those of `transfer.parquet` at the selected learning rates; the interval of a mean over pairs is taken from
the columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftodyssey.report import result_text
from peftodyssey.report.collect_transfer import reader, scored
from peftodyssey.report.result_text import UNIT, Row, signed
from peftodyssey.report.section import Section
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap

SECTION = "transfer"
TITLE = "What does adapting to one text do to the others?"
HEADINGS = ("method", "adapted to", "scored on", "tokens", "before", "change", "")
CAPTION = (
    "Test NLL in nats per token at the selected learning rate: with its interval, or as the mean over seeds "
    "with their range."
)
APART = ("domain", "newline")  # of a setting: they are the rows of the matrix


@dataclass(frozen=True)
class Pair:
    """The change on one text by adapting to another, over seeds; `rows` are those of `transfer.parquet`."""

    trained_on: str
    scored_on: str
    in_domain: bool
    rows: Sequence[Row]

    @property
    def delta(self) -> float:
        """Mean over the seeds, nats per token."""
        return statistics.fmean(row["delta_nll"] for row in self.rows)

    @property
    def said(self) -> str:
        """With its interval where there is one seed, else with the range over them."""
        if len(self.rows) == 1:
            return result_text.delta(self.rows[0])
        values = [row["delta_nll"] for row in self.rows]
        return f"{signed(self.delta)} ({signed(min(values))} to {signed(max(values))})"

    @property
    def verdict(self) -> str:
        """better or worse where the intervals of all seeds say so, else empty."""
        found = result_text.verdict(self.rows, "delta_lo", "delta_hi")
        return found if found in ("better", "worse") else ""


@dataclass(frozen=True)
class Matrix:
    """All pairs of one method on one base. `own` and `others`: mean changes over the pairs, from documents."""

    row: Row  # of results: what the cells have in common
    pairs: Sequence[Pair]
    own: Interval
    others: Interval
    seeds: int
    where: str = ""  # what tells the base from others of the page

    @property
    def name(self) -> str:
        """The method in words, with the base where there are several."""
        return result_text.method_name(self.row) + self.where

    @property
    def across(self) -> list[Pair]:
        """The pairs of two different texts."""
        return [pair for pair in self.pairs if not pair.in_domain]


def matrices(
    folder: Path, rows: Sequence[Row], pairs: Sequence[Row], cells: Mapping[tuple[str, str], Row]
) -> list[Matrix]:
    """One matrix per method and base of the run in `folder`; `rows` of results, `pairs` of `transfer.parquet`, `cells`
    of plans.
    """
    of_cell: dict[tuple[str, str], list[Row]] = {}
    for pair in pairs:
        if pair["delta_nll"] is not None:
            of_cell.setdefault((pair["cell"], pair["recipe"]), []).append(pair)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in result_text.selected_cells(rows):
        if any(not pair["in_domain"] for pair in of_cell.get((row["cell"], row["recipe"]), ())):
            groups.setdefault((row["recipe"], *_setting(row), row["label"]), []).append(row)
    return [_matrix(folder, group, of_cell, cells, rows) for group in groups.values()]


def _setting(row: Row) -> tuple[str, ...]:
    return tuple(
        value for name, value in zip(result_text.SETTING, result_text.setting(row), strict=True) if name not in APART
    )


def _matrix(
    folder: Path,
    group: Sequence[Row],
    of_cell: Mapping[tuple[str, str], list[Row]],
    cells: Mapping[tuple[str, str], Row],
    rows: Sequence[Row],
) -> Matrix:
    found: dict[tuple[str, str, bool], list[Row]] = {}
    for row in group:
        for pair in of_cell[row["cell"], row["recipe"]]:
            found.setdefault((pair["trained_on"], pair["scored_on"], pair["in_domain"]), []).append(pair)
    entries = [cells[row["cell"], row["recipe"]] for row in group]
    own, others = (_mean(folder, entries, own) for own in (True, False))
    where = result_text.where({**group[0], "domain": None}, rows)
    return Matrix(
        group[0],
        [Pair(*key, own) for key, own in found.items()],
        own,
        others,
        len({row["seed"] for row in group}),
        where,
    )


def _mean(folder: Path, entries: Sequence[Row], own: bool) -> Interval:
    """The mean change per token over all pairs; documents are drawn, each with what all its cells did to it."""
    read = reader(folder)
    by_index: dict[int, list[Row]] = {}
    for entry in entries:
        index = entry["scores"]["test"]["index"]
        for text in scored(folder, entry):
            if (text["index"] == index) == own:
                by_index.setdefault(text["index"], []).append(text)
    deltas, documents, first = [], [], 0
    for texts in by_index.values():
        columns = [read(text) for text in texts]
        deltas.append(np.mean([column.after - column.before for column in columns], axis=0))
        documents.append(columns[0].document.astype(np.int64) + first)
        first = int(documents[-1].max(initial=first - 1)) + 1
    return paired_bootstrap(np.concatenate(deltas), np.concatenate(documents))


def statements(found: Sequence[Matrix]) -> list[str]:
    """One sentence per method and base."""
    return [_statement(matrix) for matrix in found]


def _statement(matrix: Matrix) -> str:
    across = sorted(matrix.across, key=lambda pair: pair.delta)
    trained = len({pair.trained_on for pair in across})
    said = f"{matrix.name}: adapting to one text changed the others by {_amount(matrix.others)}"
    said += f" (mean of {len(across)} pairs, {trained} text{'s' * (trained > 1)} trained on"
    said += f", {matrix.seeds} seeds)" if matrix.seeds > 1 else ")"
    said += f", and the text adapted to by {_amount(matrix.own)}; "
    counts = {word: sum(pair.verdict == word for pair in across) for word in ("worse", "better")}
    said += f"{counts['worse']} of the pairs got worse and {counts['better']} better"
    if len(across) > 1:
        said += f", from {_pair(across[0])} to {_pair(across[-1])}"
    return f"{said}."


def _pair(pair: Pair) -> str:
    return f"{pair.said} on {pair.scored_on} after {pair.trained_on}"


def _amount(found: Interval) -> str:
    ends = f"[{signed(found.lower)}, {signed(found.upper)}]" if found.lower is not None else "[no interval]"
    return f"{signed(found.estimate)} {UNIT} {ends}"


def section(found: Sequence[Matrix], rows: Sequence[Row]) -> Section | None:
    """Sentences and every pair; why there is nothing where several texts were not crossed; None where there is one
    text.
    """
    if found:
        lines = [line for matrix in found for line in _lines(matrix)]
        return Section(SECTION, TITLE, statements(found), HEADINGS, lines, CAPTION)
    several = len({result_text.text_name(row) for row in result_text.selected_cells(rows)}) > 1
    return (
        Section(SECTION, TITLE, ["Not measured: `measure` of the recipe does not ask for `transfer`."])
        if several
        else None
    )


def _lines(matrix: Matrix) -> list[list[str]]:
    return [
        [
            matrix.name,
            pair.trained_on,
            f"{pair.scored_on} (its own)" if pair.in_domain else pair.scored_on,
            str(pair.rows[0]["tokens"]),
            f"{pair.rows[0]['nll_before']:.3f}",
            pair.said,
            pair.verdict,
        ]
        for pair in matrix.pairs
    ]
