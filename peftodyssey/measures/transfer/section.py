"""Section: effect of adapting to one text on the others, as sentences, heat maps and a table.

Pairs are those of `transfer.parquet` at the selected learning rates; the interval of a mean over pairs is computed from
the columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from peftodyssey.display.chart_style import COLOURS, INK, QUIET, Figure, chart_of, styled, unique
from peftodyssey.display.result_text import (
    DELTA,
    SETTING,
    UNIT,
    Row,
    amount,
    columns_of,
    coordinates,
    ends,
    grouped,
    method_name,
    selected_cells,
    signed,
    text_name,
    verdict,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.transfer.collect import column_reader, scored_texts
from peftodyssey.measures.transfer.table import TABLE
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap

TITLE = "What does adapting to one text do to the others?"
UNMEASURED = "Not measured: `measure` of the recipe does not contain `transfer`."
HEADINGS = ("method", "adapted to", "scored on", "tokens", "before", "change", "")
CAPTION = (
    "Test NLL in nats per token at the selected learning rate, of several seeds their mean, with its 95 % interval "
    "over documents, and over seeds where there are several."
)
FIGURE_CAPTION = (
    "Change of test NLL in nats per token: rows are the texts adapted to, columns the texts scored. Blue: better, "
    "orange: worse, white: no change. Framed: a text adapted to itself. Bold: the 95 % interval, over documents and "
    "seeds, is on one side of 0. Means over seeds."
)
SQUARE = (46, 34)  # width and height in pixels of one square of a heat map
MAX_WIDTH = 840  # pixels of heat maps beside each other
WHITE_TEXT = 0.85  # share of the colour scale from which numbers are white


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
    def text(self) -> str:
        """With its interval, and what it covers where there are several seeds."""
        return amount(self.rows, DELTA, unit="")

    @property
    def verdict(self) -> str:
        """better or worse if the interval of the mean over seeds says so, else empty."""
        outcome = verdict(self.rows, DELTA)
        return outcome if outcome in ("better", "worse") else ""


@dataclass(frozen=True)
class TransferMatrix:
    """All pairs of one method on one base, and the mean changes with intervals over documents."""

    row: Row  # of results: what the cells have in common
    pairs: Sequence[Pair]
    own: Interval  # over pairs of a text with itself
    others: Interval  # over pairs of different texts
    seeds: int
    base: str = ""  # what distinguishes the base from others of the page

    @property
    def name(self) -> str:
        """The method in words, with the base if there are several."""
        return method_name(self.row) + self.base

    @property
    def across(self) -> list[Pair]:
        """The pairs of different texts."""
        return [pair for pair in self.pairs if not pair.in_domain]


def matrices(
    folder: Path, rows: Sequence[Row], pairs: Sequence[Row], cells: Mapping[tuple[str, str], Row]
) -> list[TransferMatrix]:
    """One matrix per method and base of a run: `rows` of results, `pairs` of `transfer.parquet`, `cells` of plans."""
    cell = columns_of("cell", "recipe")
    of_cell = grouped((pair for pair in pairs if pair["delta_nll"] is not None), cell)
    crossed = [row for row in selected_cells(rows) if any(not pair["in_domain"] for pair in of_cell.get(cell(row), ()))]
    method = columns_of("recipe", "label", *(column for column in SETTING if column not in ("domain", "newline")))
    found = []
    for group in grouped(crossed, method).values():
        own = [pair for row in group for pair in of_cell[cell(row)]]
        by_texts = grouped(own, lambda pair: (pair["trained_on"], pair["scored_on"], pair["in_domain"]))
        entries = [cells[row["cell"], row["recipe"]] for row in group]
        found.append(
            TransferMatrix(
                group[0],
                [Pair(*texts, seeds) for texts, seeds in by_texts.items()],
                _mean_change(folder, entries, in_domain=True),
                _mean_change(folder, entries, in_domain=False),
                len({row["seed"] for row in group}),
                coordinates(group[0], rows),
            )
        )
    return found


def _mean_change(folder: Path, entries: Sequence[Row], in_domain: bool) -> Interval:
    """The mean change per token over pairs: documents are resampled, each with the mean change over all cells."""
    read = column_reader(folder)
    texts = [
        text
        for entry in entries
        for text in scored_texts(folder, entry)
        if (text["index"] == entry["scores"]["test"]["index"]) == in_domain
    ]
    deltas, documents, first = [], [], 0
    for same_text in grouped(texts, lambda text: str(text["index"])).values():
        columns = [read(text) for text in same_text]
        deltas.append(np.mean([column.after - column.before for column in columns], axis=0))
        documents.append(columns[0].document.astype(np.int64) + first)
        first = int(documents[-1].max(initial=first - 1)) + 1
    return paired_bootstrap(np.concatenate(deltas), np.concatenate(documents))


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, from every run."""
    found = [
        matrix
        for folder in sources.runs
        for matrix in matrices(
            folder, sources.rows_of(folder), sources.table_of(folder, TABLE), sources.cells_of(folder)
        )
    ]
    return [section(found, sources.rows)]


def section(found: Sequence[TransferMatrix], rows: Sequence[Row]) -> Section | None:
    """Statements and every pair, or why there are none; None if there is one text."""
    if found:
        table = [line for matrix in found for line in _table_rows(matrix)]
        return Section(
            "transfer", TITLE, statements(found), figures(found), headings=HEADINGS, table=table, caption=CAPTION
        )
    several = len({text_name(row) for row in selected_cells(rows)}) > 1
    return Section("transfer", TITLE, [UNMEASURED]) if several else None


def statements(found: Sequence[TransferMatrix]) -> list[str]:
    """One sentence per method and base."""
    return [_sentence(matrix) for matrix in found]


def _sentence(matrix: TransferMatrix) -> str:
    across = sorted(matrix.across, key=lambda pair: pair.delta)
    trained = len({pair.trained_on for pair in across})
    others, own = (f"{signed(i.estimate)} {UNIT} {ends(i.lower, i.upper)}" for i in (matrix.others, matrix.own))
    seeds = f", {matrix.seeds} seeds" if matrix.seeds > 1 else ""
    worse, better = (sum(pair.verdict == outcome for pair in across) for outcome in ("worse", "better"))
    extremes = (f"{pair.text} on {pair.scored_on} after {pair.trained_on}" for pair in (across[0], across[-1]))
    span = f", from {' to '.join(extremes)}" if len(across) > 1 else ""
    return (
        f"{matrix.name}: adapting to one text changed the others by {others} (mean of {len(across)} pairs, {trained} "
        f"text{'s' * (trained > 1)} trained on{seeds}), and the text adapted to by {own}; {worse} of the pairs got "
        f"worse and {better} better{span}."
    )


def _table_rows(matrix: TransferMatrix) -> list[list[str]]:
    return [
        [
            matrix.name,
            pair.trained_on,
            f"{pair.scored_on} (its own)" if pair.in_domain else pair.scored_on,
            str(pair.rows[0]["tokens"]),
            f"{pair.rows[0]['nll_before']:.3f}",
            pair.text,
            pair.verdict,
        ]
        for pair in matrix.pairs
    ]


def figures(found: Sequence[TransferMatrix]) -> list[Figure]:
    """One figure with a heat map per method and base."""
    if not found:
        return []
    return [Figure("transfer", "Change on each text by adapting to another", FIGURE_CAPTION, _heat_maps(found))]


def _heat_maps(found: Sequence[TransferMatrix]) -> alt.TopLevelMixin:
    values: list[dict[str, Any]] = [
        {
            "method": matrix.name,
            "trained_on": pair.trained_on,
            "scored_on": pair.scored_on,
            "in_domain": pair.in_domain,
            "delta": pair.delta,
            "clear": bool(pair.verdict),
            "text": signed(pair.delta, 2),
        }
        for matrix in found
        for pair in matrix.pairs
    ]
    names, trained = (unique(value[column] for value in values) for column in ("method", "trained_on"))
    in_domain_first = sorted(values, key=lambda value: not value["in_domain"])  # so that they are on the diagonal
    scored = unique(value["scored_on"] for value in in_domain_first)
    limit = max(abs(value["delta"]) for value in values) or 1.0
    chart = chart_of(values)
    axes: dict[str, Any] = dict.fromkeys(("ticks", "domain", "grid", "labelOverlap"), False) | {"labelPadding": 6}
    place = {
        "x": alt.X("scored_on:N", sort=scored, title="scored on", axis=alt.Axis(**axes, labelAngle=-35)),
        "y": alt.Y("trained_on:N", sort=trained, title="adapted to", axis=alt.Axis(**axes)),
    }
    scale = alt.Scale(domain=[-limit, 0, limit], range=[COLOURS[0], "#f7f7f7", COLOURS[1]], type="linear")
    legend = alt.Legend(orient="bottom", gradientLength=260, format="+.2f")
    colour = alt.Color("delta:Q", title="change, nats/token", scale=scale, legend=legend)
    clear, quiet = (
        alt.condition(f"abs(datum.delta) > {WHITE_TEXT * limit}", alt.value("white"), alt.value(ink))
        for ink in (INK, QUIET)
    )
    frame = chart.transform_filter("datum.in_domain").mark_rect(filled=False, stroke=INK, strokeWidth=2)
    bold = chart.transform_filter("datum.clear").mark_text(fontSize=12, fontWeight="bold")
    layers = [
        chart.mark_rect(stroke="white", strokeWidth=1).encode(color=colour, **place),
        frame.encode(**place),
        bold.encode(text="text:N", color=clear, **place),
        chart.transform_filter("!datum.clear").mark_text(fontSize=12).encode(text="text:N", color=quiet, **place),
    ]
    width, height = SQUARE[0] * len(scored), SQUARE[1] * len(trained)
    heat_map = alt.layer(*layers, data=chart.data).properties(width=width, height=height)
    facet = alt.Facet("method:N", sort=names, header=alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6))
    columns = next(n for n in (3, 2, 1) if len(names) % n == 0 and (n == 1 or n * width <= MAX_WIDTH))
    return styled(heat_map.facet(facet=facet, columns=columns, spacing={"row": 24, "column": 28}))
