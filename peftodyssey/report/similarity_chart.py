"""Degradation against similarity to the pretraining text, one panel per measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.report.chart_style import INK, Figure, base, colour_of_method, order, styled
from peftodyssey.report.collect_correlation import Point, families
from peftodyssey.stats.correlation import centred
from peftodyssey.stats.similarity import MEASURES, Measure

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION = "likeness"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
MOST_BASES = 3  # more: the first and the last alone are drawn, all are in the table
FEWEST_TEXTS = 3
CAPTION = (
    "Change of test NLL (up is worse) against each measure of likeness to the pretraining text; bars are 95 % "
    "intervals over documents, or the "
    "range over seeds; none where documents are too few. Lines: one slope for all groups of a method, through each "
    "group's mean, where groups hold several texts."
)


def figures(rows: Sequence[Row], similar: Sequence[Row]) -> list[Figure]:
    """One figure for each base and newline policy that has texts enough."""
    found: dict[tuple[Any, ...], dict[str, list[Point]]] = {}
    for key, points in families(rows, similar).items():
        if len(points) >= FEWEST_TEXTS:
            found.setdefault(key[:-1], {})[key[-1]] = points
    shown = list(found.values())
    shown = shown if len(shown) <= MOST_BASES else [shown[0], shown[-1]]
    made = []
    for number, methods in enumerate(shown):
        text = next(iter(methods.values()))[0].text
        where = base(text) if text["newline"] == "keep" else f"{base(text)}, {text['newline']}"
        name = "likeness" if number == 0 else f"likeness_{number + 1}"
        made.append(Figure(name, f"Degradation against likeness: {where}", CAPTION, _panels(methods), SECTION))
    return made


def _panels(methods: Mapping[str, Sequence[Point]]) -> alt.TopLevelMixin:
    import altair as alt

    names = [
        name for name in MEASURES if len({p.text[name] for points in methods.values() for p in points} - {None}) > 1
    ]
    values = [_value(label, point) for label, points in methods.items() for point in points]
    charts = [_panel(name, MEASURES[name], values, methods) for name in names]
    return styled(
        alt.concat(*charts, columns=3, spacing={"row": 24, "column": 30}).resolve_scale(color="shared", shape="shared")
    )


def _value(label: str, point: Point) -> dict[str, Any]:
    """One text under one method: its measures, and the change with its ends."""
    changes = [row["delta_nll"] for row in point.rows]
    one = point.rows[0]
    ends = (one.get("delta_lo"), one.get("delta_hi")) if len(changes) == 1 else (min(changes), max(changes))
    told = {"label": label, "group": point.text["group"], "change": point.change, "lo": ends[0], "hi": ends[1]}
    return told | {name: point.text[name] for name in MEASURES}


def _panel(
    name: str, measure: Measure, values: Sequence[Mapping[str, Any]], methods: Mapping[str, Sequence[Point]]
) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    chart = alt.Chart(alt.Data(values=[value for value in values if value[name] is not None]))
    unit = f", {measure.unit}" if measure.unit else ""
    across, up = (
        [f"{measure.name}{unit}", f"(right: {'more' if measure.sign > 0 else 'less'} alike)"],
        "change of test NLL, nats per token",
    )
    x = alt.X(f"{name}:Q", title=across, scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=4, grid=True))
    y = alt.Y("change:Q", title=up, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, grid=True))
    colour = colour_of_method(values)
    groups = order(values, lambda value: value["group"])
    shape = alt.Shape(
        "group:N",
        sort=groups,
        scale=alt.Scale(domain=groups, range=[SHAPES[i % len(SHAPES)] for i in range(len(groups))]),
        legend=alt.Legend(title="group of texts", symbolFillColor=INK, symbolStrokeColor=INK),
    )
    ends = [{"label": label, **end} for label, points in methods.items() for end in _fits(name, points)]
    lines = (
        alt.Chart(alt.Data(values=ends))
        .mark_line(strokeWidth=1.5, opacity=0.8)
        .encode(x=alt.X("x:Q", title=across), y=alt.Y("y:Q", title=up), color=colour, detail="group:N")
    )
    zero = chart.mark_rule(color="#b6bec7", strokeDash=[3, 3]).encode(y=alt.datum(0))
    bars = (
        chart.transform_filter("isValid(datum.lo)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=x, y=alt.Y("lo:Q", title=up), y2="hi:Q", color=colour)
    )
    dots = chart.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour, shape=shape)
    return alt.layer(zero, lines, bars, dots).properties(width=210, height=210)


def _fits(name: str, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Both ends of each group's line: the slope within groups through the group's means; none where unknown."""
    known = [point for point in points if point.text[name] is not None]
    group = [point.text["group"] for point in known]
    if len(known) - len(set(group)) < 2:
        return []
    x, y = (np.array(column, float) for column in ([p.text[name] for p in known], [p.change for p in known]))
    apart = centred(x, group)
    spread = float(apart @ apart)
    if not spread > 0:
        return []
    slope = float(apart @ centred(y, group)) / spread
    made = []
    for one in dict.fromkeys(group):
        own = np.array([other == one for other in group])
        if own.sum() > 1:
            made += [
                {"group": one, "x": end, "y": float(y[own].mean() + slope * (end - x[own].mean()))}
                for end in (float(x[own].min()), float(x[own].max()))
            ]
    return made
