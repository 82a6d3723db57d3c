"""The figures of results: changes, frontier, before and after, validation loss along training."""

from __future__ import annotations

from typing import Any

import altair as alt

from peftodyssey.display.chart_style import (
    COLOURS,
    GREY,
    INK,
    RULE,
    WIDTH,
    Figure,
    Rows,
    chart_of,
    chart_of_cells,
    colour_of_method,
    dashed_zero_lines,
    frontier_bars,
    lane_height,
    panels,
    points,
    shape_of_base,
    unique,
    y_methods,
    zero_line,
)
from peftodyssey.display.result_text import DELTA, FORGETTING, base_name, selected_cells, text_name

STAGES = {
    "nll_before": ("base", GREY),
    "nll_quantised": ("quantised base", COLOURS[4]),
    "nll_after": ("adapted", INK),
}


def figures(rows: Rows, curves: Rows) -> list[Figure]:
    """Every figure of results for which there are data; `curves` are rows of `learning_curves.parquet`."""
    rows = [{**row, "corpus": row["domain"], "domain": text_name(row)} for row in rows]  # a panel per newline policy
    cells = selected_cells(rows)
    if not cells:
        return []
    with_forgetting = [row for row in rows if row["status"] == "done" and row.get("forgetting") is not None]
    validation = _validation_curves(cells, curves)
    drawn = [
        Figure(
            "change",
            "Change on held-out text",
            "Change of test NLL by text, method and base, with 95 % intervals over documents; left of 0 is better.",
            _forest(cells),
        ),
        any(row["selected"] for row in with_forgetting)
        and Figure(
            "frontier",
            "Learning against forgetting",
            "Each point is a cell: change on the text adapted to against change on general text. Lower left is better. "
            "Large points: selected learning rates, with 95 % intervals over documents. Each point is the end of a "
            "whole training; lines join the learning rates of one seed and budget.",
            _frontier(with_forgetting, rows),
        ),
        Figure(
            "before_after",
            "Before and after",
            "Test NLL of the base, of the quantised base where there is one, and after adaptation.",
            _before_after(cells),
        ),
        validation
        and Figure(
            "learning_curves",
            "Learning curves",
            "Validation NLL during training at the selected learning rate; the base is at 0 tokens.",
            _learning_curves(validation, rows),
        ),
    ]
    return [figure for figure in drawn if figure]


def _forest(rows: Rows) -> alt.TopLevelMixin:
    y, offset = y_methods(rows)
    chart = chart_of_cells(rows, DELTA)
    title = "change of test NLL, nats per token (negative: better)"
    lane = {"y": y, "yOffset": offset, "color": colour_of_method(rows).legend(None)}
    x = alt.X("delta_lo:Q", title=title, axis=alt.Axis(tickCount=7, grid=True))
    layers = [
        zero_line(chart, "x"),
        chart.mark_rule(strokeWidth=2.5).encode(x=x, x2="delta_hi:Q", **lane),
        points(chart, 85, x=alt.X("delta_nll:Q", title=title), shape=shape_of_base(rows), **lane),
    ]
    return panels(layers, rows, (WIDTH, lane_height(rows)))


def _before_after(rows: Rows) -> alt.TopLevelMixin:
    y, offset = y_methods(rows)
    dots = [
        {"base": base_name(row), "label": row["label"], "domain": row["domain"], "stage": stage, "nll": row[column]}
        for row in rows
        for column, (stage, _) in STAGES.items()
        if row.get(column) is not None
    ]
    colours = {stage: colour for stage, colour in STAGES.values() if any(dot["stage"] == stage for dot in dots)}
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    chart = chart_of([*chart_of_cells(rows, ("nll_before", "nll_after")).data.values, *dots])
    title = "test NLL, nats per token"
    x = alt.X("nll_before:Q", title=title, axis=alt.Axis(tickCount=7, grid=True))
    lines = chart.transform_filter("isValid(datum.nll_after)").mark_rule(color=RULE, strokeWidth=2)
    layers = [
        lines.encode(x=x, x2="nll_after:Q", y=y, yOffset=offset),
        points(
            chart.transform_filter("isValid(datum.nll)"),
            85,
            x=alt.X("nll:Q", title=title, scale=alt.Scale(zero=False)),
            y=y,
            yOffset=offset,
            color=alt.Color("stage:N", scale=scale, sort=list(colours), legend=alt.Legend(title="test NLL of the")),
            shape=shape_of_base(rows),
        ),
    ]
    return panels(layers, rows, (WIDTH, lane_height(rows)))


def _frontier(cells: Rows, rows: Rows) -> alt.TopLevelMixin:
    chart = chart_of_cells(cells, (*DELTA, *FORGETTING, "selected", "budget"))
    axis = alt.Axis(tickCount=4, grid=True)
    x = alt.X("delta_nll:Q", title="change on the text adapted to, nats per token", axis=axis)
    y = alt.Y("forgetting:Q", title="change on general text, nats per token")
    colour = colour_of_method(rows)
    lines = chart.mark_line(strokeWidth=1, opacity=0.5)
    selected = chart.transform_filter("datum.selected")
    size = alt.condition("datum.selected", alt.value(110), alt.value(28))
    layers = [
        *dashed_zero_lines(chart, "xy"),
        lines.encode(x=x, y=y, color=colour, detail=["base:N", "seed:N", "budget:N"], order="lr:Q"),
        *frontier_bars(selected, x, y, colour),
        chart.mark_point(filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape_of_base(cells), size=size),
    ]
    return panels(layers, cells, (270, 230), wide=True, independent="x")


def _validation_curves(cells: Rows, curves: Rows) -> list[dict[str, Any]]:
    """Validation NLL of the selected cells on their own text, with the base at 0 tokens."""
    values = []
    for row in cells:
        key = (row.get("run"), row["cell"], row["corpus"], "valid")
        own = [p for p in curves if (p.get("run"), p["cell"], p["corpus"], p["split"]) == key and p["tokens_seen"] > 0]
        common = {"label": row["label"], "domain": row["domain"], "base": base_name(row), "seed": row["seed"]}
        if own and row.get("valid_nll_before") is not None:
            values.append({**common, "tokens": 0, "nll": row["valid_nll_before"]})
            values += [{**common, "tokens": point["tokens_seen"], "nll": point["nll_nats"]} for point in own]
    return values


def _learning_curves(values: Rows, rows: Rows) -> alt.TopLevelMixin:
    chart = chart_of(values)
    bases = unique(value["base"] for value in values)
    shared = {
        "x": alt.X("tokens:Q", title="tokens trained on", axis=alt.Axis(format="~s", tickCount=5)),
        "y": alt.Y("nll:Q", title="validation NLL, nats per token", scale=alt.Scale(zero=False)),
        "color": colour_of_method(rows),
    }
    dash = alt.StrokeDash("base:N", sort=bases, legend=alt.Legend(title="base"), scale=alt.Scale(domain=bases))
    layers = [
        chart.mark_line(strokeWidth=2).encode(**shared, strokeDash=dash, detail="seed:N"),
        points(chart, 32, **shared, detail=["seed:N", "base:N"]),
    ]
    return panels(layers, values, (270, 230), wide=True, independent="y")
