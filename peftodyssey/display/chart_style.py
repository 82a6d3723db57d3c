"""What all figures share: colours, axes, intervals, panels, and the files that a figure is written to.

Colours are Okabe and Ito's, which people with any colour vision can distinguish; shapes repeat what colours say.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from peftodyssey.display.result_text import Row, base_name
from peftodyssey.store import atomic

Rows = Sequence[Row]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#B8A800")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
GREY = "#8b949e"  # of bases
INK, QUIET, GRID, RULE = "#1f2328", "#59636e", "#e6e8eb", "#b6bec7"
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
THEME = {INK: "ink", QUIET: "quiet", GRID: "line", RULE: "rule", GREY: "base"}  # colour -> variable of the page
THEME |= {colour: f"c{number}" for number, colour in enumerate(COLOURS)}
WIDTH = 520  # pixels of a panel without another beside it
PNG_SCALE = 2.0


@dataclass(frozen=True)
class Figure:
    """One figure: file name, heading, caption (also its text alternative) and chart."""

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin
    shows_text: bool = False  # tokens or words of documents


def save(figures: Sequence[Figure], folder: Path) -> dict[str, str]:
    """Write SVG, PNG and CSV of each figure below `folder`; returns name -> SVG for use inside a page."""
    import vl_convert

    inlined = {}
    for figure in figures:
        spec = figure.chart.to_json(indent=None)
        svg = vl_convert.vegalite_to_svg(spec)
        atomic.write_text(folder / f"{figure.name}.svg", svg)
        atomic.write_bytes(folder / f"{figure.name}.png", vl_convert.vegalite_to_png(spec, scale=PNG_SCALE))
        atomic.write_text(folder / f"{figure.name}.csv", as_csv(figure.chart))
        inlined[figure.name] = themed(inline(svg, figure.name))
    return inlined


def as_csv(chart: alt.TopLevelMixin) -> str:
    """The rows that a chart draws, each column that any of its data has."""
    rows = [row for values in _data_values(chart.to_dict()) for row in values]
    out = io.StringIO()
    writer = csv.DictWriter(out, unique(name for row in rows for name in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _data_values(spec: Any) -> Iterator[Sequence[Row]]:
    """Every list of rows in a Vega-Lite specification, each once."""
    if isinstance(spec, Mapping):
        for key, value in spec.items():
            if key == "datasets":
                yield from value.values()
            elif key == "values" and isinstance(value, list) and value and isinstance(value[0], Mapping):
                yield value
            else:
                yield from _data_values(value)
    elif isinstance(spec, list):
        for item in spec:
            yield from _data_values(item)


def themed(svg: str) -> str:
    """SVG whose colours follow the page's theme: they are its CSS variables."""
    for colour, name in THEME.items():
        svg = re.sub(rf'"{colour}"', f'"var(--{name})"', svg, flags=re.IGNORECASE)
    return svg.replace('fill="white"', 'fill="none"', 1)


def inline(svg: str, name: str) -> str:
    """SVG for a page with others: its ids are prefixed with the figure's name, and its parts have no roles."""
    svg = re.sub(r' (role|aria-[a-z]+)="[^"]*"', "", svg)  # its words are those of the panel that holds it
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def unique(values: Iterable[Any]) -> list[Any]:
    """The values, each once, in their order."""
    return list(dict.fromkeys(values))


def chart_of(values: Iterable[Mapping[str, Any]]) -> alt.Chart:
    """A chart over these rows."""
    return alt.Chart(alt.Data(values=list(values)))


def chart_of_cells(rows: Rows, columns: Sequence[str]) -> alt.Chart:
    """A chart over rows of results: their coordinates and these columns."""
    names = ("label", "domain", "seed", "lr", *columns)
    return chart_of({"base": base_name(row), **{column: row.get(column) for column in names}} for row in rows)


def colour_by(column: str, values: Iterable[str], title: str, **legend: Any) -> alt.Color:
    """Colour by a column, in the order of its values."""
    names = unique(values)
    scale = alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])
    return alt.Color(f"{column}:N", scale=scale, sort=names, legend=alt.Legend(title=title, **legend))


def colour_of_method(rows: Rows) -> alt.Color:
    """Colour by method, the same one in every figure of a report."""
    return colour_by("label", (row["label"] for row in rows), "method", symbolOpacity=1, symbolStrokeWidth=2)


def shape_of_base(rows: Rows) -> alt.Shape:
    """Shape of a point by base."""
    bases = unique(map(base_name, rows))
    legend = alt.Legend(title="base", symbolFillColor=QUIET, symbolStrokeColor=QUIET)
    return alt.Shape("base:N", sort=bases, legend=legend, scale=alt.Scale(domain=bases, range=list(SHAPES[:6])))


def x_pretraining(counts: Iterable[int]) -> alt.X:
    """Column `tokens` on a log scale, with a label at every rung for which there is room."""
    label = "replace(format(datum.value, '.3~s'), 'G', 'B')"  # people write 1.02B tokens
    axis = alt.Axis(values=sorted(set(counts)), labelExpr=label, grid=False)
    return alt.X("tokens:Q", title="pretraining tokens", scale=alt.Scale(type="log", nice=False, padding=16), axis=axis)


def y_methods(rows: Rows) -> tuple[alt.Y, alt.YOffset]:
    """Methods down the axis; bases, and seeds within them, beside each other in each method's lane."""
    axis = alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False)
    y = alt.Y("label:N", sort=unique(row["label"] for row in rows), title=None, axis=axis)
    return y, alt.YOffset("base:N", sort=unique(map(base_name, rows)), scale=alt.Scale(paddingOuter=0.6))


def lane_height(rows: Rows) -> alt.Step:
    """Height of a lane, small enough for many bases."""
    return offset_step(max(14, 18 // max(1, len(set(map(base_name, rows))))))


def offset_step(pixels: int) -> alt.Step:
    """Height of a chart by the number of its lanes."""
    return alt.Step(pixels, **{"for": "offset"})


def zero_line(chart: alt.Chart, axis: str) -> alt.Chart:
    """A line at 0 of the axis x or y."""
    return chart.mark_rule(color=INK, strokeWidth=1).encode(**{axis: alt.datum(0)})


def dashed_zero_lines(chart: alt.Chart, axes: str) -> list[alt.Chart]:
    """Quiet lines at 0 of each axis."""
    return [chart.mark_rule(color=RULE, strokeDash=[3, 3]).encode(**{axis: alt.datum(0)}) for axis in axes]


def interval_bars(chart: alt.Chart, lower: str = "lo", width: float = 1.5, **encoding: Any) -> alt.Chart:
    """Bars of the rows that have an interval."""
    return chart.transform_filter(f"isValid(datum.{lower})").mark_rule(strokeWidth=width).encode(**encoding)


def points(chart: alt.Chart, size: float, **encoding: Any) -> alt.Chart:
    """Filled points."""
    return chart.mark_point(filled=True, size=size, opacity=1).encode(**encoding)


def panels(
    layers: Sequence[alt.Chart],
    values: Rows,
    size: tuple[Any, Any],
    *,
    by: str = "domain",
    wide: bool = False,
    independent: str = "",
) -> alt.TopLevelMixin:
    """Layers over the data of the first, `size` (width, height), one panel for each value of the column `by`.

    Panels are below each other or, if `wide`, two in a row; the axes in `independent` (of x, y) are not shared.
    """
    names = unique(value[by] for value in values)
    chart = alt.layer(*layers, data=layers[0].data).properties(width=size[0], height=size[1])
    header = alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6)
    spacing = {"row": 28, "column": 36}
    columns = min(2, len(names)) if wide else 1
    facets = chart.facet(facet=alt.Facet(f"{by}:N", sort=names, header=header), columns=columns, spacing=spacing)
    scales: dict[str, Any] = dict.fromkeys(independent, "independent")
    return styled(facets.resolve_scale(**scales))


def styled(chart: alt.Chart | alt.FacetChart | alt.LayerChart | alt.ConcatChart) -> alt.TopLevelMixin:
    """The chart with the report's font, colours and spacing."""
    text = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    text |= {"labelColor": INK, "titleColor": QUIET, "labelLimit": 320}
    lines = dict.fromkeys(("gridColor", "domainColor", "tickColor"), GRID)
    return (
        chart.configure(background="white", font=FONT, padding=10)
        .configure_view(stroke=None)
        .configure_axis(**text, **lines, titlePadding=10, labelFlush=False, labelOverlap=True)
        .configure_legend(**text)
        .configure_header(labelFontSize=13, labelFontWeight="bold", labelColor=INK, title=None)
    )


def frontier_bars(chart: alt.Chart, x: alt.X, y: alt.Y, colour: alt.Color) -> list[alt.Chart]:
    """Intervals of both changes of a point."""
    return [
        interval_bars(chart, "delta_lo", x="delta_lo:Q", x2="delta_hi:Q", y=y, color=colour),
        interval_bars(chart, "forgetting_lo", x=x, y="forgetting_lo:Q", y2="forgetting_hi:Q", color=colour),
    ]
