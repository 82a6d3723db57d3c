"""Plots of cells: the picture of the page's opening, and the specification of the plot with axes to choose."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from peftodyssey.display.chart_style import (
    INK,
    Figure,
    Rows,
    chart_of,
    colour_of_method,
    dashed_zero_lines,
    frontier_bars,
    panels,
    styled,
)
from peftodyssey.display.result_text import (
    DELTA,
    FORGETTING,
    Row,
    base_name,
    columns_of,
    format_lr,
    grouped,
    method_name,
    seeds_mean,
    setting,
    text_name,
)

HEIGHT, DRAWN_HEIGHT = 230, 190  # of a panel, and of what it shows without its padding, in pixels
LABEL_HEIGHT, BELOW_POINT = 14, 13


def figure(rows: Rows) -> Figure | None:
    """The figure; None where no selected cell has forgetting."""
    done = [row for row in rows if row["status"] == "done" and row.get("forgetting") is not None]
    points = [_point(group) for group in grouped(done, _key).values()]
    if not any(point["selected"] for point in points):
        return None
    return Figure(
        "tradeoff",
        "What each method learns and forgets",
        "Means over seeds. Large points: the learning rate selected on validation text, with 95 % intervals; small "
        "points: the other rates. Lower left is better: left learns more, lower forgets less.",
        _chart(_placed(points), done),
    )


def _key(row: Row) -> tuple[Any, ...]:
    return (*setting(row), *columns_of("label", "setting", "lr")(row))


def _point(group: Sequence[Row]) -> Row:
    first = group[0]
    bases = {"text": text_name(first), "base": base_name(first), "label": first["label"], "lr": first["lr"]}
    ends: dict[str, float | None] = {}
    for names in (DELTA, FORGETTING):
        mean = seeds_mean(group, names)
        ends |= dict(zip(names, (mean.estimate, mean.lower, mean.upper), strict=True))
    return {
        **bases,
        **ends,
        "selected": any(row["selected"] for row in group),
        "seeds": len(group),
        "name": f"{method_name(first)}, {format_lr(first['lr'])}",
    }


def _placed(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Points with the side and the height of their label, so that labels of near points stand above each other."""
    placed = []
    for own in grouped(points, columns_of("text")).values():
        low, high = (side(0.0, *(point["forgetting"] for point in own)) for side in (min, max))
        pixels = DRAWN_HEIGHT / max(high - low, 1e-9)  # of one nat
        centre = statistics.fmean(point["delta_nll"] for point in own)
        free = float("inf")  # lowest place that is not taken, in pixels from the top
        for point in sorted(own, key=lambda point: point["forgetting"]):
            height = (high - point["forgetting"]) * pixels
            at = min(height + BELOW_POINT, free)
            if point["selected"]:
                free = at - LABEL_HEIGHT
            placed.append({**point, "left": point["delta_nll"] > centre, "dy": round(at - height)})
    return placed


def _chart(points: Rows, rows: Rows) -> alt.TopLevelMixin:
    chart = chart_of(points)
    axis = alt.Axis(tickCount=4, grid=True)
    x = alt.X("delta_nll:Q", title="change on the text adapted to", axis=axis, scale=alt.Scale(padding=24))
    y = alt.Y("forgetting:Q", title="change on general text", axis=axis, scale=alt.Scale(padding=18))
    colour = colour_of_method(rows).legend(None)
    selected = chart.transform_filter("datum.selected")
    marks = chart.mark_point(filled=True).encode(
        x=x,
        y=y,
        color=colour,
        size=alt.condition("datum.selected", alt.value(120), alt.value(26)),
        opacity=alt.condition("datum.selected", alt.value(1), alt.value(0.55)),
        tooltip=["name:N", "base:N", "delta_nll:Q", "forgetting:Q", "seeds:Q"],
    )
    path = chart.mark_line(strokeWidth=1, opacity=0.4).encode(x=x, y=y, color=colour, detail="base:N", order="lr:Q")
    labels = [
        selected.transform_filter(f"{'' if left else '!'}datum.left && datum.dy == {dy}")
        .mark_text(align="right" if left else "left", dx=-9 if left else 9, dy=dy, fontSize=12, color=INK)
        .encode(x=x, y=y, text="name:N")
        for left, dy in sorted({(point["left"], point["dy"]) for point in points if point["selected"]})
    ]
    layers = [*dashed_zero_lines(chart, "xy"), path, *frontier_bars(selected, x, y, colour), marks, *labels]
    return panels(layers, points, (420, HEIGHT), by="text", independent="xy")


def plot_specification() -> dict[str, Any]:
    """The Vega-Lite specification of the plot whose axes the reader chooses; the page fills in the rows `cells`."""
    chart = alt.Chart(alt.NamedData("cells"))
    points = chart.mark_point(filled=True, size=70).encode(
        x=alt.X("x:Q"),
        y=alt.Y("y:Q"),
        color=alt.Color("method:N", legend=alt.Legend(title=None)),
        opacity=alt.condition("datum.selected", alt.value(1), alt.value(0.45)),
        tooltip=[alt.Tooltip("cell:N"), alt.Tooltip("x:Q", format="+.4f"), alt.Tooltip("y:Q", format="+.4f")],
    )
    return styled(alt.layer(points).properties(height=300)).to_dict()
