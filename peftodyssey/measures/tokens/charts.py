"""Figures of tokens: change by class, concentration of the rise, token types before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from peftodyssey.display.chart_style import (
    COLOURS,
    INK,
    QUIET,
    Figure,
    Rows,
    chart_of,
    colour_of_method,
    interval_bars,
    offset_step,
    panels,
    unique,
    zero_line,
)
from peftodyssey.display.result_text import Row, text_name
from peftodyssey.display.token_text import visible
from peftodyssey.measures.tokens.evidence import Evidence
from peftodyssey.measures.tokens.sentences import CLASS_NAMES

MIN_COUNT = 3  # occurrences of a token type that is drawn
MAX_TYPES = 250  # per panel, those with the largest summed change
MAX_PANELS = 8  # of token types
OUTCOMES = {"worse": (COLOURS[1], "triangle-up"), "better": (COLOURS[0], "circle")}
CLASSES_CAPTION = (
    "Part of the mean change on test by class of token, with 95 % intervals over documents; the bars of one method "
    "add up to its whole change."
)
CONCENTRATION_CAPTION = (
    "Share of the total rise against the share of the token types that it is on, those that rose most first. The "
    "dashed line is an even distribution."
)
TYPES_CAPTION = (
    f"Mean NLL of each token type before and after, of those that occur at least {MIN_COUNT} times; the area is the "
    "count. Above the line a type is worse. Named: the types with the largest summed rise and fall. Axes by square "
    "roots."
)


def figures(rows: Rows, evidence: Sequence[Evidence]) -> list[Figure]:
    """The figures of tokens for which there are data; each text and method on the most pretrained base."""
    shown = _most_pretrained(evidence)
    if not shown:
        return []
    drawn = [Figure("token_classes", "Change by class of token", CLASSES_CAPTION, _classes(shown, rows))]
    if curves := _lorenz_values(shown):
        chart = _concentration(curves, rows)
        drawn.append(Figure("concentration", "Concentration of the rise on token types", CONCENTRATION_CAPTION, chart))
    worst = _worst(shown)
    if values := [value for item in worst for value in _type_values(item)]:
        subset = f" The {len(worst)} of {len(shown)} texts and methods that changed most for the worse."
        caption = TYPES_CAPTION + (subset if len(worst) < len(shown) else "")
        drawn.append(Figure("token_types", "Token types before and after", caption, _types(values), shows_text=True))
    return drawn


def _most_pretrained(evidence: Sequence[Evidence]) -> list[Evidence]:
    best: dict[tuple[Any, ...], Evidence] = {}
    for item in evidence:
        key = (item.row.get("run"), item.row["model"], text_name(item.row), item.row["label"])
        known = best.get(key)
        if known is None or (item.row.get("pretrain_tokens") or 0) > (known.row.get("pretrain_tokens") or 0):
            best[key] = item
    return list(best.values())


def _worst(shown: Sequence[Evidence]) -> list[Evidence]:
    """At most MAX_PANELS, in the order given."""
    ranked = sorted(shown, key=lambda item: -item.row["delta_nll"])[:MAX_PANELS]
    return [item for item in shown if item in ranked]


def _classes(shown: Sequence[Evidence], rows: Rows) -> alt.TopLevelMixin:
    values = [
        {
            "label": item.row["label"],
            "domain": text_name(item.row),
            "class": CLASS_NAMES[entry["name"]],
            **{column: entry[column] for column in ("part", "part_lo", "part_hi")},
        }
        for item in shown
        for entry in item.breakdown["class"]
    ]
    present = {value["class"] for value in values}
    labels = unique(value["label"] for value in values)
    chart = chart_of(values)
    y = alt.Y(
        "class:N",
        sort=[name for name in CLASS_NAMES.values() if name in present],
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8),
    )
    x = alt.X("part:Q", title="part of the change, nats per token", axis=alt.Axis(tickCount=4, grid=True))
    offset = alt.YOffset("label:N", sort=labels)
    centre = alt.YOffset("label:N", sort=labels, bandPosition=0.5)
    bars = interval_bars(
        chart, "part_lo", 1.2, x="part_lo:Q", x2="part_hi:Q", y=y, yOffset=centre, color=alt.value(INK)
    )
    layers = [
        chart.mark_bar().encode(x=x, y=y, yOffset=offset, color=colour_of_method(rows)),
        bars,
        zero_line(chart, "x"),
    ]
    size = (240, offset_step(max(6, 24 // len(labels))))
    return panels(layers, values, size, wide=True, independent="x")


def _lorenz_values(shown: Iterable[Evidence]) -> list[dict[str, Any]]:
    return [
        {"label": item.row["label"], "domain": text_name(item.row), "types": types, "rise": rise}
        for item in shown
        for types, rise in item.lorenz
    ]


def _concentration(values: Rows, rows: Rows) -> alt.TopLevelMixin:
    chart = chart_of(values)
    title = "share of the total rise"
    ticks = alt.Axis(format="~%", values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], grid=True)
    axis = alt.Axis(format="%", tickCount=5, grid=True)
    x = alt.X("types:Q", title="share of the token types", scale=alt.Scale(type="log", nice=False), axis=ticks)
    y = alt.Y("rise:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=axis)
    even = chart.mark_line(color=QUIET, strokeDash=[4, 3], strokeWidth=1)
    layers = [
        even.encode(x=x, y=alt.Y("types:Q", title=title)),
        chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour_of_method(rows)),
    ]
    return panels(layers, values, (270, 230), wide=True)


def _type_values(item: Evidence) -> list[dict[str, Any]]:
    frequent = [row for row in item.types if row["tokens"] >= MIN_COUNT]
    ranked = sorted(frequent, key=lambda row: (-abs(row["sum_nats"]), row["token"]))[:MAX_TYPES]
    named = [row for sign in (1, -1) if (row := _first_with_sign(ranked, sign))]
    return [
        {
            "panel": f"{text_name(item.row)}: {item.row['label']}",
            "before": row["nll_before"],
            "after": row["nll_after"],
            "count": row["tokens"],
            "outcome": "worse" if row["sum_nats"] > 0 else "better",
            "name": f"“{visible(row['name'])}”" if row in named else "",
        }
        for row in ranked
    ]


def _first_with_sign(types: Sequence[Row], sign: int) -> Row | None:
    return next((row for row in types if sign * row["sum_nats"] > 0), None)


def _types(values: Rows) -> alt.TopLevelMixin:
    chart = chart_of(values)
    top = max(max(value["before"], value["after"]) for value in values) * 1.05
    scale, axis = alt.Scale(type="sqrt", domain=[0, top]), alt.Axis(tickCount=5, grid=True)
    title = "mean NLL after, nats"
    x = alt.X("before:Q", title="mean NLL before, nats", scale=scale, axis=axis)
    y = alt.Y("after:Q", title=title, scale=scale, axis=axis)
    names, colours, shapes = list(OUTCOMES), *zip(*OUTCOMES.values(), strict=True)
    colour_scale, shape_scale = (alt.Scale(domain=names, range=list(given)) for given in (colours, shapes))
    dots = chart.mark_point(filled=True, opacity=0.55).encode(
        x=x,
        y=y,
        color=alt.Color("outcome:N", scale=colour_scale, legend=alt.Legend(title="change")),
        size=alt.Size("count:Q", scale=alt.Scale(range=[8, 220]), legend=alt.Legend(title="occurrences")),
        shape=alt.Shape("outcome:N", scale=shape_scale),
    )
    diagonal = chart.mark_line(color=QUIET, strokeWidth=1)
    worse, better = (
        chart.transform_filter(f"datum.name != '' && datum.outcome == '{outcome}'") for outcome in OUTCOMES
    )
    layers = [
        diagonal.encode(x=alt.X("before:Q", scale=scale), y=alt.Y("before:Q", scale=scale, title=title)),
        dots,
        worse.mark_text(fontSize=11, color=INK, align="right", dx=-7, dy=-6).encode(x=x, y=y, text="name:N"),
        better.mark_text(fontSize=11, color=INK, align="left", dx=7, dy=8).encode(x=x, y=y, text="name:N"),
    ]
    return panels(layers, values, (240, 240), by="panel", wide=True)
