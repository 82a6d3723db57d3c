"""The figures of the report as Altair charts, and their files. Called by `report.build`.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; shapes repeat what colours say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.report import sentences
from peftodyssey.store import atomic

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#B8A800")
INK, QUIET, GRID = "#1f2328", "#59636e", "#e6e8eb"
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
WIDTH = 520  # pixels of a lone panel
PNG_SCALE = 2.0


@dataclass(frozen=True)
class Figure:
    """One figure: file name, heading, one sentence that says what is seen (also its text alternative), chart."""

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin


def figures(rows: Rows, points: Rows, classes: Rows) -> list[Figure]:
    """Every figure that there is something to show in.

    `rows` of results, `points` of points; `classes`: dicts of cell, class, nats (contribution to the mean change).
    """
    picked = sentences.headline(rows)
    if not picked:
        return []
    made = [
        Figure("change", "Change on held-out text", "Change of test NLL by text, method and base with 95 % intervals from "
               "documents; left of the line is better.", _forest(picked)),
        Figure("before_after", "Before and after", "Test NLL of the base, of the quantised base where there is one, and after "
               "adaptation.", _before_after(picked)),
    ]  # fmt: skip
    if any(row.get("forgetting") is not None for row in picked):
        text = "Each point is a cell: change on the text adapted to against change on general text. Lower left is better. Large: selected."
        made.insert(1, Figure("frontier", "Learning against forgetting", text, _frontier(rows)))
    if paths := _path_rows(picked, points):
        text = "Validation NLL along training at the selected learning rate, from the base (0 tokens) on."
        made.append(Figure("paths", "Learning paths", text, _paths(paths, rows)))
    if bars := _class_rows(picked, classes):
        text = "What each class of tokens adds to the mean change on test; the bars of one method add up to its whole change."
        made.append(Figure("classes", "Which tokens changed", text, _classes(bars, rows)))
    return made


def save(made: Sequence[Figure], folder: Path) -> dict[str, str]:
    """Write `<name>.svg` and `<name>.png` of each figure below `folder`; returns name -> SVG for use inside a page."""
    import vl_convert

    drawn = {}
    for figure in made:
        spec = figure.chart.to_json(indent=None)
        svg = vl_convert.vegalite_to_svg(spec)
        atomic.write_text(folder / f"{figure.name}.svg", svg)
        atomic.write_bytes(folder / f"{figure.name}.png", vl_convert.vegalite_to_png(spec, scale=PNG_SCALE))
        drawn[figure.name] = inline(svg, figure.name)
    return drawn


def inline(svg: str, name: str) -> str:
    """SVG that can stand beside others in one page: its ids carry the figure's name, its size follows the page."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', svg)


def base(row: Mapping[str, Any]) -> str:
    """Name of the base in legends: revision, or the model's last name; with the run where several are compared."""
    own = str(row.get("revision") or str(row.get("model")).rsplit("/", 1)[-1])
    return f"{row['run']}: {own}" if row.get("run") else own


def _order(rows: Rows, key: Any) -> list[str]:
    return list(dict.fromkeys(key(row) for row in rows))


def _colour(rows: Rows) -> alt.Color:
    import altair as alt

    labels = _order(rows, lambda row: row["label"])
    span = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    legend = alt.Legend(title="method", symbolOpacity=1, symbolStrokeWidth=2)
    return alt.Color("label:N", scale=alt.Scale(domain=labels, range=span), legend=legend, sort=labels)


def _styled(chart: alt.Chart | alt.FacetChart | alt.LayerChart) -> alt.TopLevelMixin:
    return (
        chart.configure(background="white", font=FONT, padding=10)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=INK, titleColor=QUIET, titlePadding=10,
            gridColor=GRID, domainColor=GRID, tickColor=GRID, labelLimit=320,
            labelFlush=False, labelOverlap=True,
        )
        .configure_legend(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", titleColor=QUIET, labelColor=INK, labelLimit=320)
        .configure_header(labelFontSize=13, labelFontWeight="bold", labelColor=INK, title=None)
    )  # fmt: skip


def _plain(rows: Rows, columns: Sequence[str]) -> alt.Data:
    import altair as alt

    kept = ("label", "domain", "seed", "lr", *columns)
    return alt.Data(values=[{"base": base(row), **{column: row.get(column) for column in kept}} for row in rows])


def _dodge(rows: Rows) -> tuple[alt.Y, alt.YOffset]:
    """Methods down the axis; bases, and seeds within them, beside each other in each method's lane."""
    import altair as alt

    labels, lanes = _order(rows, lambda r: r["label"]), _order(rows, base)
    height = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False))
    return height, alt.YOffset("base:N", sort=lanes, scale=alt.Scale(paddingOuter=0.6))


def _shape(rows: Rows) -> alt.Shape:
    import altair as alt

    return alt.Shape(
        "base:N", sort=_order(rows, base), legend=alt.Legend(title="base", symbolFillColor=QUIET, symbolStrokeColor=QUIET),
        scale=alt.Scale(domain=_order(rows, base), range=["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]),
    )  # fmt: skip


def _row_step(rows: Rows) -> alt.Step:
    import altair as alt

    return alt.Step(max(14, 30 // max(1, len(_order(rows, base)))), **{"for": "offset"})


def _by_domain(chart: alt.LayerChart, rows: Rows, *, wide: bool = False) -> alt.FacetChart:
    """One panel per text: below each other, or beside each other two by two."""
    import altair as alt

    domains = _order(rows, lambda row: row["domain"])
    header = alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6)
    facet = alt.Facet("domain:N", sort=domains, header=header)
    return chart.facet(facet=facet, columns=min(2, len(domains)) if wide else 1, spacing={"row": 28, "column": 36})


def _forest(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    height, offset = _dodge(rows)
    source = alt.Chart(_plain(rows, ("delta_nll", "delta_lo", "delta_hi")))
    title = "change of test NLL, nats per token (negative: better)"
    colour, ticks = _colour(rows).legend(None), alt.Axis(tickCount=7)
    zero = source.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = source.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("delta_lo:Q", title=title, axis=ticks), x2="delta_hi:Q", y=height, yOffset=offset, color=colour
    )
    dots = source.mark_point(filled=True, size=85, opacity=1).encode(
        x=alt.X("delta_nll:Q", title=title), y=height, yOffset=offset, color=colour, shape=_shape(rows)
    )  # fmt: skip
    layers = alt.layer(zero, bars, dots, data=source.data).properties(width=WIDTH, height=_row_step(rows))
    return _styled(_by_domain(layers, rows))


def _before_after(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    height, offset = _dodge(rows)
    stages = {"nll_before": "base", "nll_quantised": "quantised base", "nll_after": "adapted"}
    values = [
        {"base": base(row), "label": row["label"], "domain": row["domain"], "stage": stage, "nll": row[column]}
        for row in rows
        for column, stage in stages.items()
        if row.get(column) is not None
    ]
    shown = [stage for stage in stages.values() if any(value["stage"] == stage for value in values)]
    colours = {"base": "#8b949e", "quantised base": COLOURS[4], "adapted": COLOURS[0]}
    scale = alt.Scale(domain=shown, range=[colours[stage] for stage in shown])
    lines = alt.Chart(_plain(rows, ("nll_before", "nll_after"))).mark_rule(color="#b6bec7", strokeWidth=2)
    lines = lines.encode(x=alt.X("nll_before:Q", title=_NLL, axis=alt.Axis(tickCount=7)), x2="nll_after:Q", y=height, yOffset=offset)
    dots = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=85, opacity=1)
    dots = dots.encode(
        x=alt.X("nll:Q", title=_NLL, scale=alt.Scale(zero=False)), y=height, yOffset=offset,
        color=alt.Color("stage:N", scale=scale, sort=shown, legend=alt.Legend(title="test NLL of the")), shape=_shape(rows),
    )  # fmt: skip
    data = alt.Data(values=[*lines.data.values, *dots.data.values])
    layers = alt.layer(
        lines.properties(data=alt.Undefined).transform_filter("isValid(datum.nll_after)"),
        dots.properties(data=alt.Undefined).transform_filter("isValid(datum.nll)"),
        data=data,
    ).properties(width=WIDTH, height=_row_step(rows))
    return _styled(_by_domain(layers, rows))


_NLL = "test NLL, nats per token"


def _frontier(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    shown = [r for r in rows if r["status"] == "done" and r.get("forgetting") is not None]
    columns = ("delta_nll", "delta_lo", "delta_hi", "forgetting", "forgetting_lo", "forgetting_hi", "selected")
    chart = alt.Chart(_plain(shown, columns))
    x = alt.X("delta_nll:Q", title="change on the text adapted to, nats per token", axis=alt.Axis(tickCount=5))
    y = alt.Y("forgetting:Q", title="change on general text, nats per token")
    colour = _colour(rows)
    quiet = [chart.mark_rule(color="#b6bec7", strokeDash=[3, 3]).encode(**{axis: alt.datum(0)}) for axis in "xy"]
    trail = chart.mark_line(strokeWidth=1, opacity=0.5).encode(
        x=x, y=y, color=colour, detail=["base:N", "seed:N"], order="lr:Q"
    )
    best = chart.transform_filter("datum.selected")
    bars = [
        best.mark_rule(strokeWidth=1.5).encode(x="delta_lo:Q", x2="delta_hi:Q", y=y, color=colour),
        best.mark_rule(strokeWidth=1.5).encode(x=x, y="forgetting_lo:Q", y2="forgetting_hi:Q", color=colour),
    ]
    size = alt.condition("datum.selected", alt.value(110), alt.value(28))
    dots = chart.mark_point(filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=_shape(shown), size=size)
    layers = alt.layer(*quiet, trail, *bars, dots, data=chart.data).properties(width=270, height=230)
    return _styled(_by_domain(layers, shown, wide=True).resolve_scale(x="independent"))


def _path_rows(picked: Rows, points: Rows) -> list[dict[str, Any]]:
    """Validation NLL of the selected cells on their own text, with the base as the point at 0 tokens."""
    made = []
    for row in picked:
        path = [
            point
            for point in points
            if (point["cell"], point["corpus"], point["split"]) == (row["cell"], row["domain"], "valid")
            and point.get("run") == row.get("run") and point["tokens_seen"] > 0
        ]  # fmt: skip
        shared = {"label": row["label"], "domain": row["domain"], "base": base(row), "seed": row["seed"]}
        if path and row.get("valid_nll_before") is not None:
            made.append({**shared, "tokens": 0, "nll": row["valid_nll_before"]})
            made += [{**shared, "tokens": point["tokens_seen"], "nll": point["nll_nats"]} for point in path]
    return made


def _paths(paths: Rows, rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    chart = alt.Chart(alt.Data(values=list(paths)))
    x = alt.X("tokens:Q", title="tokens trained on", axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("nll:Q", title="validation NLL, nats per token", scale=alt.Scale(zero=False))
    bases = list(dict.fromkeys(path["base"] for path in paths))
    dash = alt.StrokeDash("base:N", sort=bases, legend=alt.Legend(title="base"), scale=alt.Scale(domain=bases))
    colour = _colour(rows)
    lines = chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, detail="seed:N")
    dots = chart.mark_point(filled=True, size=32, opacity=1).encode(x=x, y=y, color=colour, detail=["seed:N", "base:N"])
    layers = alt.layer(lines, dots, data=chart.data).properties(width=270, height=230)
    return _styled(_by_domain(layers, paths, wide=True).resolve_scale(y="independent"))


def _class_rows(picked: Rows, classes: Rows) -> list[dict[str, Any]]:
    """The ledger of the selected cells, of the first seed and the base with most pretraining only."""
    made = []
    for (domain, label) in dict.fromkeys((row["domain"], row["label"]) for row in picked):
        found = [row for row in picked if (row["domain"], row["label"]) == (domain, label)]
        row = max(found, key=lambda r: (r.get("pretrain_tokens") or 0, -(r["seed"] or 0)))
        made += [
            {"label": label, "domain": domain, "class": str(entry["class"]).replace("_", " "), "nats": entry["nats"]}
            for entry in classes
            if entry["cell"] == row["cell"] and entry.get("run") == row.get("run") and entry["tokens"]
        ]
    return made


def _classes(bars: Rows, rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    order = list(dict.fromkeys(bar["class"] for bar in bars))
    labels = _order(bars, lambda bar: bar["label"])
    chart = alt.Chart(alt.Data(values=list(bars)))
    drawn = chart.mark_bar().encode(
        x=alt.X("nats:Q", title="share of the change, nats per token", axis=alt.Axis(tickCount=5)),
        y=alt.Y("class:N", sort=order, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8)),
        yOffset=alt.YOffset("label:N", sort=labels),
        color=_colour(rows),
    )
    zero = chart.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    layers = alt.layer(drawn, zero, data=chart.data).properties(width=240, height=alt.Step(max(6, 24 // len(labels)), **{"for": "offset"}))
    return _styled(_by_domain(layers, bars, wide=True).resolve_scale(x="independent"))
