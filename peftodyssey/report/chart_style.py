"""What all figures share: colours, axes, panels, and the files that they become.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; shapes repeat what colours say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.store import atomic

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]
GREY = "#8b949e"  # of what is not adapted
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#B8A800")
INK, QUIET, GRID = "#1f2328", "#59636e", "#e6e8eb"
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
WIDTH = 520  # pixels of a lone panel
PNG_SCALE = 2.0


@dataclass(frozen=True)
class Figure:
    """One figure: file name, heading, one sentence that says what is seen (also its text alternative), chart, and the
    section of the page that it stands in.
    """

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin
    section: str = "figures"


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


def order(rows: Rows, key: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """Values of `key` over the rows, each once, in the order of the rows."""
    return list(dict.fromkeys(key(row) for row in rows))


def colour_of_method(rows: Rows) -> alt.Color:
    """Colour by method, the same one in every figure of a report."""
    import altair as alt

    labels = order(rows, lambda row: row["label"])
    span = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    legend = alt.Legend(title="method", symbolOpacity=1, symbolStrokeWidth=2)
    return alt.Color("label:N", scale=alt.Scale(domain=labels, range=span), legend=legend, sort=labels)


def by_pretraining(counts: Sequence[int]) -> alt.X:
    """`tokens` across on a log scale, a label at every rung that there is room for."""
    import altair as alt

    label = "replace(format(datum.value, '.3~s'), 'G', 'B')"  # people write 1.02B tokens
    axis = alt.Axis(values=sorted(set(counts)), labelExpr=label, grid=False)
    return alt.X("tokens:Q", title="pretraining tokens", scale=alt.Scale(type="log", nice=False, padding=16), axis=axis)


def styled(chart: alt.Chart | alt.FacetChart | alt.LayerChart) -> alt.TopLevelMixin:
    """The chart with the report's type, ink and spacing."""
    return (
        chart.configure(background="white", font=FONT, padding=10)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelColor=INK,
            titleColor=QUIET,
            titlePadding=10,
            gridColor=GRID,
            domainColor=GRID,
            tickColor=GRID,
            labelLimit=320,
            labelFlush=False,
            labelOverlap=True,
        )
        .configure_legend(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titleColor=QUIET,
            labelColor=INK,
            labelLimit=320,
        )
        .configure_header(labelFontSize=13, labelFontWeight="bold", labelColor=INK, title=None)
    )


def plain(rows: Rows, columns: Sequence[str]) -> alt.Data:
    """Rows as Vega data: coordinates and the columns asked for."""
    import altair as alt

    kept = ("label", "domain", "seed", "lr", *columns)
    return alt.Data(values=[{"base": base(row), **{column: row.get(column) for column in kept}} for row in rows])


def offset_by_base(rows: Rows) -> tuple[alt.Y, alt.YOffset]:
    """Methods down the axis; bases, and seeds within them, beside each other in each method's lane."""
    import altair as alt

    labels, lanes = order(rows, lambda r: r["label"]), order(rows, base)
    height = alt.Y(
        "label:N",
        sort=labels,
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False),
    )
    return height, alt.YOffset("base:N", sort=lanes, scale=alt.Scale(paddingOuter=0.6))


def shape(rows: Rows) -> alt.Shape:
    """Shape of a point by base."""
    import altair as alt

    return alt.Shape(
        "base:N",
        sort=order(rows, base),
        legend=alt.Legend(title="base", symbolFillColor=QUIET, symbolStrokeColor=QUIET),
        scale=alt.Scale(
            domain=order(rows, base), range=["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
        ),
    )


def row_step(rows: Rows) -> alt.Step:
    """Height of a lane, so that many bases still fit."""
    import altair as alt

    return alt.Step(max(14, 18 // max(1, len(order(rows, base)))), **{"for": "offset"})


def by_domain(chart: alt.LayerChart | alt.FacetChart, rows: Rows, *, wide: bool = False) -> alt.FacetChart:
    """One panel per text: below each other, or beside each other two by two."""
    import altair as alt

    assert isinstance(chart, alt.LayerChart), "a chart that is already faceted"
    domains = order(rows, lambda row: row["domain"])
    header = alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6)
    facet = alt.Facet("domain:N", sort=domains, header=header)
    return chart.facet(facet=facet, columns=min(2, len(domains)) if wide else 1, spacing={"row": 28, "column": 36})
