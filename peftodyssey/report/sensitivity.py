"""Whether longer-pretrained bases are harder to fine-tune, by method, in sentences and a figure.

Made of the rows of `sensitivity.parquet` that stand on trained cells; the learning rates are those of
`results.parquet`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from peftodyssey.report.chart_style import (
    COLOURS,
    GREY,
    INK,
    WIDTH,
    Figure,
    by_domain,
    by_pretraining,
    colour_of_method,
    styled,
)
from peftodyssey.report.noise import tokens, turn, verdict
from peftodyssey.report.result_text import UNIT, format_lr, interval, is_tuned, next_lr, selected_cells, text_name
from peftodyssey.report.section import Section

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION = "sensitivity"
QUESTION = "Does fine-tuning cost more the longer the pretraining, and does the method change that?"
SAME = 1e-9  # of logarithms of rates: rounding of a geometric mean
QUANTITIES = {"forgetting": "forgetting", "learning": "the change on the text adapted to"}


def _rows(sensitivity: Sequence[Row]) -> list[Row]:
    """Slopes at each rung's selected learning rate."""
    return [row for row in sensitivity if row["quantity"] in QUANTITIES and row["lr"] is None]


def section(sensitivity: Sequence[Row], rows: Sequence[Row]) -> Section | None:
    """The question with its answers; None where nothing of it was measured."""
    said = statements(sensitivity, rows)
    return Section(SECTION, QUESTION, said) if said else None


def statements(sensitivity: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The differences between methods first, then each method's slope of forgetting and its rates; last what they stand
    on.
    """
    slopes = _rows(sensitivity)
    said = [
        _difference(row) + _unresolved(row, rows) for row in slopes if row["minus"] and row["quantity"] == "forgetting"
    ]
    said += [
        _slope(row) + _unresolved(row, rows) for row in slopes if not row["minus"] and row["quantity"] == "forgetting"
    ]
    if said:
        said += _rates(slopes, rows)
        said.append(
            "Each slope is at the learning rate selected on that rung, over documents and seeds (with one seed "
            "over documents alone), "
            "given this ladder: its rungs are one pretraining run, and its text may repeat."
        )
    return said


def _trained(row: Row, rows: Sequence[Row], label: str) -> list[Row]:
    """The selected cells that a slope stands on, by pretraining tokens."""
    same = ("run", "recipe", "model", "arm", "domain")
    found = [
        r
        for r in selected_cells(rows)
        if r["label"] == label
        and r.get("pretrain_tokens")
        and r.get("lr")
        and all(r.get(n) == row.get(n) for n in same)
    ]
    return sorted(found, key=lambda r: (r["pretrain_tokens"], r["seed"]))


def _unresolved(row: Row, rows: Sequence[Row]) -> str:
    """Which of the rates behind a slope are the edge of their grid, with what to add to it."""
    said = []
    for label in filter(None, (row["intervention"], row["minus"])):
        edged = [r for r in _trained(row, rows, label) if r.get("lr_edge")]
        if edged:
            rungs = ", ".join(dict.fromkeys(tokens(r["pretrain_tokens"]) for r in edged))
            add = ", ".join(dict.fromkeys(format_lr(next_lr(r["lr"], r["lr_edge"])) for r in edged))
            said.append(f"{label} at {rungs} (try {add})")
    return f" Unresolved, as the selected rate is the edge of its grid: {'; '.join(said)}." if said else ""


def _rates(slopes: Sequence[Row], rows: Sequence[Row]) -> Iterator[str]:
    """How the tuned learning rate changes along the ladder: geometric means over seeds, no finer than the grid."""
    for row in slopes:
        found = _trained(row, rows, row["intervention"]) if not row["minus"] and row["quantity"] == "forgetting" else []
        if len({one["pretrain_tokens"] for one in found}) < 2 or not any(is_tuned(one, rows) for one in found):
            continue
        by_rung = {
            count: [one["lr"] for one in found if one["pretrain_tokens"] == count]
            for count in dict.fromkeys(r["pretrain_tokens"] for r in found)
        }
        told = ", ".join(
            f"{' and '.join(map(format_lr, sorted(set(rates))))} at {tokens(count)}" for count, rates in by_rung.items()
        )
        means = [statistics.geometric_mean(rates) for rates in by_rung.values()]
        steps = [math.log(b / a) for a, b in pairwise(means)]
        falls, rises = min(steps) < -SAME, max(steps) > SAME
        word = (
            "goes up and down"
            if falls and rises
            else "falls with longer pretraining"
            if falls
            else "rises with longer pretraining"
            if rises
            else "stays the same"
        )
        yield (
            f"{_where(row)}: the tuned learning rate of {row['intervention']} {word}, as far as the grid can "
            f"tell: {told}."
        )


def _where(row: Row) -> str:
    ladder = f"{tokens(row['tokens_from'])} to {tokens(row['tokens_to'])}, {row['rungs']} rungs"
    return f"{row['domain']}, {row['arm'] or row['model']} ({ladder})"


def _slope(row: Row) -> str:
    amount, turns = interval(row, "slope", "slope_lo", "slope_hi", 4), turn(row)
    after = f"; after training, the loss on general text {turns}" if turns else ""
    return (
        f"{_where(row)}: {row['intervention']} forgets {amount} {UNIT} more per tenfold pretraining: "
        f"{verdict(row)}{after}."
    )


def _difference(row: Row) -> str:
    amount = interval(row, "slope", "slope_lo", "slope_hi", 4)
    if row["slope_lo"] is None:
        says = "no interval, so no verdict"
    elif row["slope_lo"] > 0:
        says = f"longer pretraining costs {row['intervention']} more than {row['minus']}"
    else:
        says = (
            f"longer pretraining costs {row['minus']} more than {row['intervention']}"
            if row["slope_hi"] < 0
            else "no clear difference between them"
        )
    return (
        f"{_where(row)}: the slope of forgetting of {row['intervention']} minus that of {row['minus']} is "
        f"{amount} {UNIT} per tenfold pretraining: {says}."
    )


def figures(sensitivity: Sequence[Row], rows: Sequence[Row]) -> list[Figure]:
    """The loss along each ladder before and after training, and slopes with their differences."""
    made, on_ladder = (
        [],
        [
            row
            for row in selected_cells(rows)
            if row.get("pretrain_tokens") and row.get("general_nll_after") is not None
        ],
    )
    if len({row["pretrain_tokens"] for row in on_ladder}) > 1:
        caption = (
            "NLL of general text under the base (grey) and after adapting, against pretraining tokens, at each "
            "rung's selected learning rate; lines are "
            "means over seeds, points seeds, bars 95 % intervals of the change. Where a line turns up, longer "
            "pretraining makes the adapted model worse."
        )
        made.append(
            Figure(
                "ladder",
                "General text before and after adapting, by length of pretraining",
                caption,
                _ladder(on_ladder, rows),
                SECTION,
            )
        )
    slopes = [row for row in _rows(sensitivity) if row["slope"] is not None]
    if slopes:
        caption = (
            "Slope per tenfold pretraining tokens with 95 % intervals, at each rung's selected learning rate; "
            "right of the line, longer pretraining costs more."
        )
        made.append(Figure("slopes", "How costs grow with pretraining", caption, _forest(slopes), SECTION))
    return made


def _ladder(found: Sequence[Row], rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    values = []
    for row in found:
        start = row["general_nll_before"]
        ends = [None if row.get(end) is None else start + row[end] for end in ("forgetting_lo", "forgetting_hi")]
        panel = " · ".join(
            str(part) for part in (row.get("run"), text_name(row), row.get("arm") or row["model"]) if part
        )
        values.append(
            {
                "domain": panel,
                "tokens": row["pretrain_tokens"],
                "label": row["label"],
                "base": start,
                "value": row["general_nll_after"],
                "lo": ends[0],
                "hi": ends[1],
            }
        )
    values.sort(key=lambda value: value["domain"])
    source = alt.Chart(alt.Data(values=values))
    across, colour = by_pretraining([value["tokens"] for value in values]), colour_of_method(rows)
    title, scale = "NLL of general text, nats per token", alt.Scale(zero=False)
    marks = [
        source.mark_line(strokeWidth=2, color=GREY).encode(x=across, y=alt.Y("mean(base):Q", title=title, scale=scale)),
        source.mark_point(filled=True, size=45, opacity=1, color=GREY).encode(
            x=across, y=alt.Y("base:Q", title=title, scale=scale)
        ),
        source.transform_filter("isValid(datum.lo)")
        .mark_rule(strokeWidth=1.2, opacity=0.7)
        .encode(x=across, y=alt.Y("lo:Q", title=title), y2="hi:Q", color=colour),
        source.mark_line(strokeWidth=2).encode(
            x=across, y=alt.Y("mean(value):Q", title=title, scale=scale), color=colour
        ),
        source.mark_point(filled=True, size=45, opacity=1).encode(
            x=across,
            y=alt.Y("value:Q", title=title, scale=scale),
            color=colour,
            shape=alt.Shape("label:N", legend=None),
        ),
    ]
    chart = alt.layer(*marks, data=source.data).properties(width=300, height=250)
    return styled(by_domain(chart, values, wide=True))


def _forest(rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    values = [
        {
            "domain": f"{row['domain']} · {row['arm'] or row['model']}",
            "intervention": f"{row['intervention']} minus {row['minus']}" if row["minus"] else row["intervention"],
            "quantity": QUANTITIES[row["quantity"]],
            "slope": row["slope"],
            "lo": row["slope_lo"],
            "hi": row["slope_hi"],
        }
        for row in rows
    ]
    names, kinds = (
        list(dict.fromkeys(v["intervention"] for v in values)),
        list(dict.fromkeys(v["quantity"] for v in values)),
    )
    source = alt.Chart(alt.Data(values=values))
    down = alt.Y(
        "intervention:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False)
    )
    lane = alt.YOffset("quantity:N", sort=kinds, scale=alt.Scale(paddingOuter=0.6))
    colour = alt.Color(
        "quantity:N",
        title="slope of",
        sort=kinds,
        scale=alt.Scale(domain=kinds, range=list(COLOURS[: len(kinds)])),
        legend=alt.Legend(orient="bottom"),
    )
    title = "nats per token per tenfold pretraining tokens"
    zero = source.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = (
        source.transform_filter("isValid(datum.lo)")
        .mark_rule(strokeWidth=2.5)
        .encode(x=alt.X("lo:Q", title=title), x2="hi:Q", y=down, yOffset=lane, color=colour)
    )
    dots = source.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X("slope:Q", title=title, axis=alt.Axis(tickCount=7)),
        y=down,
        yOffset=lane,
        color=colour,
        shape=alt.Shape("quantity:N", sort=kinds, legend=None),
    )
    layers = alt.layer(zero, bars, dots, data=source.data).properties(
        width=WIDTH, height=alt.Step(15, **{"for": "offset"})
    )
    return styled(by_domain(layers, values))
