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
from peftodyssey.display.ladder_text import CHANGE, SAME_LINE, SLOPE, format_tokens, lowest_text, slope_text
from peftodyssey.display.result_text import (
    Row,
    columns_of,
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
from peftodyssey.measures.contrast.table import EQUAL_LEARNING, FORGETTING, LEARNING, OWN_RATE
from peftodyssey.measures.sensitivity import annealing
from peftodyssey.measures.sensitivity.table import ANNEALING_TABLE, ONE_RATE, STEPS_TABLE, TABLE

TITLE = "Is a longer-pretrained base harder to fine-tune, and does that depend on the method?"
SAME_RATE = 1e-9  # difference of log rates: rounding of a geometric mean
OF_QUANTITY = {
    (FORGETTING, EQUAL_LEARNING): "forgetting at equal learning",
    (FORGETTING, OWN_RATE): "forgetting at the best rate of each rung",
    (FORGETTING, ONE_RATE): "forgetting at one rate",
    (LEARNING, OWN_RATE): "the change on the text adapted to",
    (LEARNING, ONE_RATE): "the change on the text adapted to, at one rate",
}
HEADINGS = ("ladder", "cost", "method", "slope per tenfold tokens", "steps from rung to rung", "verdict")
CAPTION = (
    "Nats per token with 95 % intervals over clusters and seeds (below three seeds over clusters only), given this "
    "ladder. A slope is given where a line in log tokens is not rejected."
)
LADDER_CAPTION = (
    "NLL of general text under the base (grey) and after adaptation, against pretraining tokens, at the learning "
    "rate selected on each rung; points are seeds, lines their means, bars 95 % intervals of the change. Where a "
    "line turns up, longer pretraining makes the adapted model worse."
)
SLOPES_CAPTION = (
    "Slope per tenfold pretraining tokens with 95 % intervals, where a line is not rejected; right of 0, longer "
    "pretraining costs more."
)


def _shown(slopes: Sequence[Row]) -> list[Row]:
    """Rows of trained cells: of rates that are the same for all rungs only where the method has no other."""
    trained = [row for row in slopes if row["quantity"] in (FORGETTING, LEARNING)]
    who = columns_of("run", "recipe", "model", "arm", "domain", "newline", "intervention", "minus")
    tuned = {who(row) for row in trained if row["compared_at"] == OWN_RATE}
    return [row for row in trained if row["compared_at"] != ONE_RATE or who(row) not in tuned]


def sections(sources: ReportSources) -> list[Section | None]:
    """The slopes, and the differences between arms, of all runs together."""
    slopes, steps = sources.table(TABLE), sources.table(STEPS_TABLE)
    return [section(slopes, steps, sources.rows), annealing.section(sources.table(ANNEALING_TABLE))]


def section(slopes: Sequence[Row], steps: Sequence[Row], rows: Sequence[Row]) -> Section | None:
    """The section; None if there are no slopes of trained cells.

    `slopes` are rows of `sensitivity.parquet`, `steps` of `rung_steps.parquet`, `rows` of results.
    """
    said = statements(slopes, steps, rows)
    if not said:
        return None
    table = [_line(row, steps) for row in _shown(slopes)]
    drawn = figures(slopes, rows)
    return Section("sensitivity", TITLE, said, drawn, headings=HEADINGS, table=table, caption=CAPTION)


def statements(slopes: Sequence[Row], steps: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Differences between methods first, at equal learning and then raw, each method's own; learning rates; limits."""
    forgetting = [row for row in _shown(slopes) if row["quantity"] == FORGETTING]
    if not forgetting:
        return []
    differences = [row for row in forgetting if row["minus"]]
    methods = [row for row in forgetting if not row["minus"]]
    raw = [row for row in methods if row["compared_at"] != EQUAL_LEARNING]
    return [
        *(_difference(pair, steps) for pair in _pairs(differences)),
        *(_method(pair, steps) + _edges(pair[-1], rows) for pair in _pairs(methods)),
        *_learning_rates(raw, rows),
        "At the best rate of each rung forgetting depends on the size of the update as well as on the rung; at equal "
        "learning it does not. Everything is given this ladder: its rungs are of one pretraining run, whose text may "
        "repeat.",
    ]


def _pairs(forgetting: Sequence[Row]) -> list[list[Row]]:
    """The rows of each method, or difference, at equal learning first."""
    key = columns_of(*(name for name in SAME_LINE if name not in ("compared_at", "budget", "lr")))
    return [
        sorted(own, key=lambda row: row["compared_at"] != EQUAL_LEARNING) for own in grouped(forgetting, key).values()
    ]


def _difference(pair: Sequence[Row], steps: Sequence[Row]) -> str:
    first = pair[0]
    said = "; ".join(f"{_at(row, pair)} {slope_text(row, steps)}" for row in pair)
    return f"{_ladder(pair[-1])}: forgetting of {first['intervention']} minus that of {first['minus']}: {said}."


def _method(pair: Sequence[Row], steps: Sequence[Row]) -> str:
    said = "; ".join(f"{_at(row, pair)} {slope_text(row, steps)}" for row in pair)
    lowest = lowest_text(pair[-1])
    after = f"; after training, the loss on general text {lowest}" if lowest else ""
    return f"{_ladder(pair[-1])}: forgetting of {pair[0]['intervention']}: {said}{after}."


def _at(row: Row, pair: Sequence[Row]) -> str:
    """Where a slope was measured, with the budget where there are several."""
    if row["compared_at"] == EQUAL_LEARNING:
        return "at equal learning"
    several = len({other["budget"] for other in pair if other["compared_at"] != EQUAL_LEARNING}) > 1
    budget = f" after {row['budget']}" if several else ""
    at_rate = (
        f"at the rate {format_lr(row['lr'])}" if row["compared_at"] == ONE_RATE else "at the best rate of each rung"
    )
    return f"{at_rate}{budget}"


def _line(row: Row, steps: Sequence[Row]) -> list[str]:
    key = columns_of(*SAME_LINE)
    own = sorted((step for step in steps if key(step) == key(row)), key=lambda step: step["tokens_from"])
    minus = f" minus {row['minus']}" if row["minus"] else ""
    said = row["shape"] or row["verdict"]
    return [
        _ladder(row),
        OF_QUANTITY[row["quantity"], row["compared_at"]] + (f" ({format_lr(row['lr'])})" if row["lr"] else ""),
        f"{row['intervention']}{minus}",
        interval(row, SLOPE, 4),
        "; ".join(f"to {format_tokens(step['tokens_to'])} {interval(step, CHANGE, 4)}" for step in own),
        f"{said} ({row['reason']})" if row["reason"] else str(said),
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
    where = f"{slope['domain']}, {slope['arm'] or slope['model']}"
    if not slope["rungs"]:
        return where
    tokens = f"{format_tokens(slope['tokens_from'])} to {format_tokens(slope['tokens_to'])}"
    return f"{where} ({tokens}, {slope['rungs']} rungs)"


def figures(slopes: Sequence[Row], rows: Sequence[Row]) -> list[Figure]:
    """The loss along each ladder before and after training, and slopes with their differences."""
    drawn = []
    cells = [r for r in selected_cells(rows) if r.get("pretrain_tokens") and r.get("general_nll_after") is not None]
    if len({row["pretrain_tokens"] for row in cells}) > 1:
        title = "General text before and after adaptation, by length of pretraining"
        drawn.append(Figure("ladder", title, LADDER_CAPTION, _along_ladder(cells, rows)))
    known = [row for row in _shown(slopes) if row["slope"] is not None]
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
            "quantity": OF_QUANTITY[row["quantity"], row["compared_at"]],
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
