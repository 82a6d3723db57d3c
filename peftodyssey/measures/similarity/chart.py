"""Figure: degradation against similarity to the pretraining text, one panel per measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from peftodyssey.display.chart_style import (
    INK,
    SHAPES,
    Figure,
    chart_of,
    colour_of_method,
    dashed_zero_lines,
    interval_bars,
    points,
    styled,
    unique,
)
from peftodyssey.display.result_text import Row, base_name
from peftodyssey.measures.similarity.collect_correlation import TextChange, families
from peftodyssey.measures.similarity.compute import CORRELATED, MEASURES
from peftodyssey.measures.similarity.correlation import centred

MAX_BASES = 3  # of more, only the first and the last are drawn; all are in the table
MIN_TEXTS = 3
CAPTION = (
    "Change of test NLL (up is worse) against each measure of similarity to the pretraining text; bars are 95 % "
    "intervals over documents, or the range over seeds; none if there are too few documents. Lines: one slope for "
    "all groups of a method, through each group's mean, for groups of several texts."
)
Methods = Mapping[str, Sequence[TextChange]]


def figures(rows: Sequence[Row], similar: Sequence[Row]) -> list[Figure]:
    """One figure for each base and newline policy with at least MIN_TEXTS texts."""
    by_base: dict[tuple[Any, ...], dict[str, list[TextChange]]] = {}
    for (*setting, label), texts in families(rows, similar).items():
        if len(texts) >= MIN_TEXTS:
            by_base.setdefault(tuple(setting), {})[label] = texts
    bases = list(by_base.values())
    drawn = []
    for number, methods in enumerate(bases if len(bases) <= MAX_BASES else [bases[0], bases[-1]], 1):
        text = next(iter(methods.values()))[0].text
        policy = "" if text["newline"] == "keep" else f", {text['newline']}"
        name = "similarity" if number == 1 else f"similarity_{number}"
        title = f"Degradation against similarity: {base_name(text)}{policy}"
        drawn.append(Figure(name, title, CAPTION, _chart(methods)))
    return drawn


def _chart(methods: Methods) -> alt.TopLevelMixin:
    texts = [text for group in methods.values() for text in group]
    names = [name for name in CORRELATED if len({text.text[name] for text in texts} - {None}) > 1]
    values = [_value(label, text) for label, group in methods.items() for text in group]
    charts = [_panel(name, values, methods) for name in names]
    spacing = {"row": 24, "column": 30}
    return styled(alt.concat(*charts, columns=3, spacing=spacing).resolve_scale(color="shared", shape="shared"))


def _value(label: str, text: TextChange) -> dict[str, Any]:
    """One text with one method: its measures, and the change with its interval or range."""
    changes = [row["delta_nll"] for row in text.rows]
    first = text.rows[0]
    lower, upper = (first.get("delta_lo"), first.get("delta_hi")) if len(changes) == 1 else (min(changes), max(changes))
    value = {"label": label, "group": text.text["group"], "change": text.change, "lo": lower, "hi": upper}
    return value | {name: text.text[name] for name in CORRELATED}


def _panel(name: str, values: Sequence[Mapping[str, Any]], methods: Methods) -> alt.LayerChart | alt.FacetChart:
    measure = MEASURES[name]
    chart = chart_of(value for value in values if value[name] is not None)
    unit = f", {measure.unit}" if measure.unit else ""
    x_title = [f"{measure.name}{unit}", f"(right: {'more' if measure.sign > 0 else 'less'} similar)"]
    y_title, scale = "change of test NLL, nats per token", alt.Scale(zero=False)
    padded = alt.Scale(zero=False, padding=12)
    x = alt.X(f"{name}:Q", title=x_title, scale=padded, axis=alt.Axis(tickCount=4, grid=True))
    y = alt.Y("change:Q", title=y_title, scale=scale, axis=alt.Axis(tickCount=5, grid=True))
    colour, groups = colour_of_method(values), unique(value["group"] for value in values)
    shape = alt.Shape(
        "group:N",
        sort=groups,
        scale=alt.Scale(domain=groups, range=[SHAPES[i % len(SHAPES)] for i in range(len(groups))]),
        legend=alt.Legend(title="group of texts", symbolFillColor=INK, symbolStrokeColor=INK),
    )
    ends = [{"label": label, **end} for label, texts in methods.items() for end in line_ends(name, texts)]
    lines = chart_of(ends).mark_line(strokeWidth=1.5, opacity=0.8)
    layers = [
        *dashed_zero_lines(chart, "y"),
        lines.encode(x=alt.X("x:Q", title=x_title), y=alt.Y("y:Q", title=y_title), color=colour, detail="group:N"),
        interval_bars(chart, x=x, y=alt.Y("lo:Q", title=y_title), y2="hi:Q", color=colour),
        points(chart, 80, x=x, y=y, color=colour, shape=shape),
    ]
    return alt.layer(*layers).properties(width=210, height=210)


def line_ends(name: str, texts: Sequence[TextChange]) -> list[dict[str, Any]]:
    """Both ends of each group's line: the slope within groups through the group's means; empty if it is unknown."""
    known = [text for text in texts if text.text[name] is not None]
    group = [text.text["group"] for text in known]
    if len(known) - len(set(group)) < 2:
        return []
    x, y = np.array([text.text[name] for text in known], float), np.array([text.change for text in known], float)
    deviation = centred(x, group)
    squares = float(deviation @ deviation)
    if not squares > 0:
        return []
    slope = float(deviation @ centred(y, group)) / squares
    ends = []
    for one in unique(group):
        in_group = np.array([other == one for other in group])
        if in_group.sum() > 1:
            own, mean = x[in_group], float(y[in_group].mean())
            ends += [
                {"group": one, "x": end, "y": float(mean + slope * (end - own.mean()))}
                for end in (float(own.min()), float(own.max()))
            ]
    return ends
