"""Section: whether a longer-pretrained base is harder to fine-tune, and whether that depends on the method.

Made of the rows of `sensitivity.parquet` about trained cells; the learning rates are those of `results.parquet`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from peftodyssey.display.chart_style import (
    GREY,
    WIDTH,
    Figure,
    chart_of,
    colour_by,
    colour_of_method,
    interval_bars,
    offset_step,
    panels,
    points,
    unique,
    x_pretraining,
    zero_line,
)
from peftodyssey.display.result_text import (
    NO_VERDICT,
    UNIT,
    Row,
    columns_of,
    common_sign,
    format_lr,
    grouped,
    interval,
    is_tuned,
    rate_to_add,
    selected_cells,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.noise.section import SLOPE, format_tokens, slope_verdict, turning_point_text
from peftodyssey.measures.sensitivity import annealing
from peftodyssey.measures.sensitivity.table import ANNEALING_TABLE, TABLE

TITLE = "Is a longer-pretrained base harder to fine-tune, and does that depend on the method?"
SAME_RATE = 1e-9  # difference of log rates: rounding of a geometric mean
QUANTITIES = {"forgetting": "forgetting", "learning": "the change on the text adapted to"}
LADDER_CAPTION = (
    "NLL of general text under the base (grey) and after adaptation, against pretraining tokens, at the learning "
    "rate selected on each rung; points are seeds, lines their means, bars 95 % intervals of the change. Where a "
    "line turns up, longer pretraining makes the adapted model worse."
)
SLOPES_CAPTION = (
    "Slope per tenfold pretraining tokens with 95 % intervals, at the learning rate selected on each rung; right of "
    "the line, longer pretraining costs more."
)


def _selected_slopes(slopes: Sequence[Row]) -> list[Row]:
    """Slopes of trained cells at the learning rate selected on each rung."""
    return [row for row in slopes if row["quantity"] in QUANTITIES and row["lr"] is None]


def sections(sources: ReportSources) -> list[Section | None]:
    """The slopes, and the differences between arms, of all runs together."""
    return [section(sources.table(TABLE), sources.rows), annealing.section(sources.table(ANNEALING_TABLE))]


def section(slopes: Sequence[Row], rows: Sequence[Row]) -> Section | None:
    """The section; `slopes` are rows of `sensitivity.parquet`. None if there are none."""
    said = statements(slopes, rows)
    return Section("sensitivity", TITLE, said, figures(slopes, rows)) if said else None


def statements(slopes: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Differences between methods first, then each method's slope of forgetting and learning rates; then limits."""
    forgetting = [row for row in _selected_slopes(slopes) if row["quantity"] == "forgetting"]
    if not forgetting:
        return []
    of_methods = [row for row in forgetting if not row["minus"]]
    return [
        *(_difference(row) + _edges(row, rows) for row in forgetting if row["minus"]),
        *(_slope(row) + _edges(row, rows) for row in of_methods),
        *_learning_rates(of_methods, rows),
        "Each slope is at the learning rate selected on each rung, with an interval over documents and seeds (with "
        "one seed over documents alone), given this ladder: its rungs are of one pretraining run, whose text may "
        "repeat.",
    ]


def _cells_of(slope: Row, rows: Sequence[Row], label: str) -> list[Row]:
    """The selected cells behind a slope, by pretraining tokens."""
    key = columns_of("run", "recipe", "model", "arm", "domain")
    cells = [
        row
        for row in selected_cells(rows)
        if row["label"] == label and row.get("pretrain_tokens") and row.get("lr") and key(row) == key(slope)
    ]
    return sorted(cells, key=lambda row: (row["pretrain_tokens"], row["seed"]))


def _edges(slope: Row, rows: Sequence[Row]) -> str:
    """Which learning rates behind a slope are the edge of their grid, and what to add to it."""
    notes = []
    for label in filter(None, (slope["intervention"], slope["minus"])):
        at_edge = [row for row in _cells_of(slope, rows, label) if row.get("lr_edge")]
        if at_edge:
            rungs = ", ".join(unique(format_tokens(row["pretrain_tokens"]) for row in at_edge))
            rates = ", ".join(unique(rate_to_add(row) for row in at_edge))
            notes.append(f"{label} at {rungs} (try {rates})")
    return f" Not resolved, because the selected rate is the edge of its grid: {'; '.join(notes)}." if notes else ""


def _learning_rates(slopes: Sequence[Row], rows: Sequence[Row]) -> Iterator[str]:
    """How the tuned learning rate changes along the ladder: geometric means over seeds, no finer than the grid."""
    for slope in slopes:
        cells = _cells_of(slope, rows, slope["intervention"])
        by_rung = {
            tokens: [row["lr"] for row in rung]
            for tokens, rung in grouped(cells, lambda row: row["pretrain_tokens"]).items()
        }
        if len(by_rung) < 2 or not any(is_tuned(row, rows) for row in cells):
            continue
        rates = ", ".join(
            f"{' and '.join(map(format_lr, sorted(set(lrs))))} at {format_tokens(tokens)}"
            for tokens, lrs in by_rung.items()
        )
        steps = [math.log(b / a) for a, b in pairwise(map(statistics.geometric_mean, by_rung.values()))]
        trend = {
            (False, False): "stays the same",
            (False, True): "rises with longer pretraining",
            (True, False): "falls with longer pretraining",
            (True, True): "goes up and down",
        }[min(steps) < -SAME_RATE, max(steps) > SAME_RATE]
        yield (
            f"{_ladder(slope)}: the tuned learning rate of {slope['intervention']} {trend}, as far as the grid "
            f"resolves it: {rates}."
        )


def _ladder(slope: Row) -> str:
    tokens = f"{format_tokens(slope['tokens_from'])} to {format_tokens(slope['tokens_to'])}"
    return f"{slope['domain']}, {slope['arm'] or slope['model']} ({tokens}, {slope['rungs']} rungs)"


def _slope(slope: Row) -> str:
    turning = turning_point_text(slope)
    after = f"; after training, the loss on general text {turning}" if turning else ""
    return (
        f"{_ladder(slope)}: {slope['intervention']} forgets {interval(slope, SLOPE, 4)} {UNIT} more per tenfold "
        f"pretraining: {slope_verdict(slope)}{after}."
    )


def _difference(slope: Row) -> str:
    first, second = slope["intervention"], slope["minus"]
    outcome = {
        None: NO_VERDICT,
        1: f"longer pretraining costs {first} more than {second}",
        -1: f"longer pretraining costs {second} more than {first}",
        0: "no clear difference between them",
    }[common_sign([slope], *SLOPE[1:])]
    return (
        f"{_ladder(slope)}: the slope of forgetting of {first} minus that of {second} is {interval(slope, SLOPE, 4)} "
        f"{UNIT} per tenfold pretraining: {outcome}."
    )


def figures(slopes: Sequence[Row], rows: Sequence[Row]) -> list[Figure]:
    """The loss along each ladder before and after training, and slopes with their differences."""
    drawn = []
    cells = [r for r in selected_cells(rows) if r.get("pretrain_tokens") and r.get("general_nll_after") is not None]
    if len({row["pretrain_tokens"] for row in cells}) > 1:
        title = "General text before and after adaptation, by length of pretraining"
        drawn.append(Figure("ladder", title, LADDER_CAPTION, _along_ladder(cells, rows)))
    known = [row for row in _selected_slopes(slopes) if row["slope"] is not None]
    if known:
        drawn.append(Figure("slopes", "How costs grow with pretraining", SLOPES_CAPTION, _forest(known)))
    return drawn


def _along_ladder(cells: Sequence[Row], rows: Sequence[Row]) -> alt.TopLevelMixin:
    values = []
    for row in cells:
        before = row["general_nll_before"]
        lower, upper = (
            None if row.get(f"forgetting_{e}") is None else before + row[f"forgetting_{e}"] for e in ("lo", "hi")
        )
        panel = " · ".join(str(p) for p in (row.get("run"), text_name(row), row.get("arm") or row["model"]) if p)
        coordinates = {"domain": panel, "tokens": row["pretrain_tokens"], "label": row["label"]}
        values.append({**coordinates, "base": before, "value": row["general_nll_after"], "lo": lower, "hi": upper})
    values.sort(key=lambda value: value["domain"])
    chart = chart_of(values)
    x, colour = x_pretraining(value["tokens"] for value in values), colour_of_method(rows)
    title = "NLL of general text, nats per token"
    base, base_mean, value, mean = (
        alt.Y(shown, title=title, scale=alt.Scale(zero=False))
        for shown in ("base:Q", "mean(base):Q", "value:Q", "mean(value):Q")
    )
    layers = [
        chart.mark_line(strokeWidth=2, color=GREY).encode(x=x, y=base_mean),
        chart.mark_point(filled=True, size=45, opacity=1, color=GREY).encode(x=x, y=base),
        interval_bars(chart, width=1.2, x=x, y=alt.Y("lo:Q", title=title), y2="hi:Q", color=colour),
        chart.mark_line(strokeWidth=2).encode(x=x, y=mean, color=colour),
        points(chart, 45, x=x, y=value, color=colour, shape=alt.Shape("label:N", legend=None)),
    ]
    return panels(layers, values, (300, 250), wide=True)


def _forest(slopes: Sequence[Row]) -> alt.TopLevelMixin:
    values = [
        {
            "domain": f"{row['domain']} · {row['arm'] or row['model']}",
            "intervention": f"{row['intervention']} minus {row['minus']}" if row["minus"] else row["intervention"],
            "quantity": QUANTITIES[row["quantity"]],
            "slope": row["slope"],
            "lo": row["slope_lo"],
            "hi": row["slope_hi"],
        }
        for row in slopes
    ]
    names, quantities = (unique(value[column] for value in values) for column in ("intervention", "quantity"))
    chart = chart_of(values)
    axis = alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False)
    lane: dict[str, Any] = {
        "y": alt.Y("intervention:N", sort=names, title=None, axis=axis),
        "yOffset": alt.YOffset("quantity:N", sort=quantities, scale=alt.Scale(paddingOuter=0.6)),
        "color": colour_by("quantity", quantities, "slope of", orient="bottom"),
    }
    title = "nats per token per tenfold pretraining tokens"
    x = alt.X("slope:Q", title=title, axis=alt.Axis(tickCount=7))
    layers = [
        zero_line(chart, "x"),
        interval_bars(chart, width=2.5, x=alt.X("lo:Q", title=title), x2="hi:Q", **lane),
        points(chart, 80, x=x, shape=alt.Shape("quantity:N", sort=quantities, legend=None), **lane),
    ]
    return panels(layers, values, (WIDTH, offset_step(15)))
