"""Figures of tokens: change by class, concentration of the rise, token types before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.chart_style import (
    COLOURS,
    INK,
    QUIET,
    Figure,
    Rows,
    by_domain,
    colour_of_method,
    order,
    styled,
)
from peftodyssey.report.result_text import Row, text_name
from peftodyssey.report.token_evidence import Evidence
from peftodyssey.report.token_sentences import WORDS
from peftodyssey.report.visible import visible

if TYPE_CHECKING:
    import altair as alt

SECTION = "tokens"
MIN_COUNT = 3  # occurrences of a token type that is drawn
DRAWN_TYPES = 250  # per panel, those with the largest summed change
PANELS = 8  # of token types
WORSE, BETTER = COLOURS[1], COLOURS[0]


def figures(rows: Rows, evidence: Sequence[Evidence]) -> list[Figure]:
    """Every figure of tokens that there is something to show in; `evidence` of selected cells, one seed each.

    Each text and method is shown on the base with most pretraining.
    """
    shown = _of_the_oldest_base(evidence)
    if not shown:
        return []
    made = [
        Figure(
            "classes",
            "What each class of tokens adds",
            "Parts of the mean change on test by class of token, with 95 % "
            "intervals from documents; the bars of one method add up to its whole change.",
            _classes(shown, rows),
            SECTION,
        ),
    ]
    if curves := _curve_rows(shown):
        text = (
            "Share of all that rose against the share of the token types that carry it, those that rose most "
            "first. The dashed line is an even spread."
        )
        made.append(
            Figure("concentration", "How few token types carry the rise", text, _concentration(curves, rows), SECTION)
        )
    drawn = _worst(shown)
    if points := _type_rows(drawn):
        text = (
            f"Mean NLL of each token type before and after, of those that occur at least {MIN_COUNT} times; the "
            f"area is the count. Above "
            f"the line a type is worse. Named: the types with the largest summed rise and fall. Axes by square roots."
            + (
                f" The {len(drawn)} of {len(shown)} texts and methods that changed most for the worse."
                if len(drawn) < len(shown)
                else ""
            )
        )
        made.append(Figure("types", "Token types before and after", text, _types(points), SECTION))
    return made


def _of_the_oldest_base(evidence: Sequence[Evidence]) -> list[Evidence]:
    best: dict[tuple[Any, ...], Evidence] = {}
    for item in evidence:
        coordinates = (item.row.get("run"), item.row["model"], text_name(item.row), item.row["label"])
        held = best.get(coordinates)
        if held is None or (item.row.get("pretrain_tokens") or 0) > (held.row.get("pretrain_tokens") or 0):
            best[coordinates] = item
    return list(best.values())


def _worst(shown: Sequence[Evidence]) -> list[Evidence]:
    """As many as can be looked at, in the order given."""
    ranked = sorted(shown, key=lambda item: -item.row["delta_nll"])[:PANELS]
    return [item for item in shown if item in ranked]


def _classes(shown: Sequence[Evidence], rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    bars = [
        {
            "label": item.row["label"],
            "domain": text_name(item.row),
            "class": WORDS[entry["name"]],
            **{column: entry[column] for column in ("part", "part_lo", "part_hi")},
        }
        for item in shown
        for entry in item.ledger["class"]
    ]
    present = {bar["class"] for bar in bars}
    labels = order(bars, lambda bar: bar["label"])
    chart = alt.Chart(alt.Data(values=bars))
    height = alt.Y(
        "class:N",
        sort=[word for word in WORDS.values() if word in present],
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8),
    )
    offset = alt.YOffset("label:N", sort=labels)
    drawn = chart.mark_bar().encode(
        x=alt.X("part:Q", title="part of the change, nats per token", axis=alt.Axis(tickCount=4, grid=True)),
        y=height,
        yOffset=offset,
        color=colour_of_method(rows),
    )
    ends = chart.transform_filter("isValid(datum.part_lo)").mark_rule(color=INK, strokeWidth=1.2)
    ends = ends.encode(
        x="part_lo:Q", x2="part_hi:Q", y=height, yOffset=alt.YOffset("label:N", sort=labels, bandPosition=0.5)
    )
    zero = chart.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    layers = alt.layer(drawn, ends, zero, data=chart.data).properties(
        width=240, height=alt.Step(max(6, 24 // len(labels)), **{"for": "offset"})
    )
    return styled(by_domain(layers, bars, wide=True).resolve_scale(x="independent"))


def _curve_rows(shown: Sequence[Evidence]) -> list[dict[str, Any]]:
    return [
        {"label": item.row["label"], "domain": text_name(item.row), "types": types, "rise": rise}
        for item in shown
        for types, rise in item.lorenz
    ]


def _concentration(curves: Rows, rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    chart = alt.Chart(alt.Data(values=list(curves)))
    scale = alt.Scale(type="log", nice=False)
    x = alt.X(
        "types:Q",
        title="share of the token types",
        scale=scale,
        axis=alt.Axis(format="~%", values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1], grid=True),
    )
    y = alt.Y(
        "rise:Q",
        title="share of all that rose",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%", tickCount=5, grid=True),
    )
    even = chart.mark_line(color=QUIET, strokeDash=[4, 3], strokeWidth=1).encode(
        x=x, y=alt.Y("types:Q", title="share of all that rose")
    )
    lines = chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour_of_method(rows))
    layers = alt.layer(even, lines, data=chart.data).properties(width=270, height=230)
    return styled(by_domain(layers, curves, wide=True))


def _type_rows(shown: Sequence[Evidence]) -> list[dict[str, Any]]:
    made = []
    for item in shown:
        often = [row for row in item.types if row["tokens"] >= MIN_COUNT]
        ranked = sorted(often, key=lambda row: (-abs(row["sum_nats"]), row["token"]))[:DRAWN_TYPES]
        named = [*_that_went(ranked, 1)[:1], *_that_went(ranked, -1)[:1]]
        made += [
            {
                "panel": f"{text_name(item.row)}: {item.row['label']}",
                "before": row["nll_before"],
                "after": row["nll_after"],
                "count": row["tokens"],
                "went": "worse" if row["sum_nats"] > 0 else "better",
                "name": f"“{visible(row['name'])}”" if row in named else "",
            }
            for row in ranked
        ]
    return made


def _that_went(types: Sequence[Row], sign: int) -> list[Row]:
    """The types whose change has this sign, in the order given."""
    return [row for row in types if sign * row["sum_nats"] > 0]


def _types(points: Rows) -> alt.TopLevelMixin:
    import altair as alt

    chart = alt.Chart(alt.Data(values=list(points)))
    top = max(max(point["before"], point["after"]) for point in points) * 1.05
    scale = alt.Scale(type="sqrt", domain=[0, top])
    x = alt.X("before:Q", title="mean NLL before, nats", scale=scale, axis=alt.Axis(tickCount=5, grid=True))
    y = alt.Y("after:Q", title="mean NLL after, nats", scale=scale, axis=alt.Axis(tickCount=5, grid=True))
    colour = alt.Color(
        "went:N", scale=alt.Scale(domain=["worse", "better"], range=[WORSE, BETTER]), legend=alt.Legend(title="went")
    )
    dots = chart.mark_point(filled=True, opacity=0.55).encode(
        x=x,
        y=y,
        color=colour,
        size=alt.Size("count:Q", scale=alt.Scale(range=[8, 220]), legend=alt.Legend(title="occurrences")),
        shape=alt.Shape("went:N", scale=alt.Scale(domain=["worse", "better"], range=["triangle-up", "circle"])),
    )
    line = chart.mark_line(color=QUIET, strokeWidth=1).encode(
        x=alt.X("before:Q", scale=scale), y=alt.Y("before:Q", scale=scale, title="mean NLL after, nats")
    )
    worse, better = (
        chart.transform_filter(f"datum.name != '' && datum.went == '{went}'") for went in ("worse", "better")
    )
    above = worse.mark_text(fontSize=11, color=INK, align="right", dx=-7, dy=-6).encode(x=x, y=y, text="name:N")
    below = better.mark_text(fontSize=11, color=INK, align="left", dx=7, dy=8).encode(x=x, y=y, text="name:N")
    layers = alt.layer(line, dots, above, below, data=chart.data).properties(width=240, height=240)
    panels = order(points, lambda point: point["panel"])
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6))
    return styled(layers.facet(facet=facet, columns=min(2, len(panels)), spacing={"row": 28, "column": 36}))
