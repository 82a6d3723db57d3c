"""Section: how far the weights moved, and how much of their rank updates use."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import altair as alt

from peftodyssey.display.chart_style import (
    GREY,
    Figure,
    chart_of_cells,
    colour_of_method,
    dashed_zero_lines,
    interval_bars,
    panels,
    points,
    shape_of_base,
)
from peftodyssey.display.measured import has, measured_groups, unmeasured
from peftodyssey.display.rank_labels import MIN_RANKS_DRAWN, alpha_rules, label_without_rank
from peftodyssey.display.result_text import (
    DELTA,
    FORGETTING,
    NO_NUMBER,
    Row,
    at_tuned_rate,
    base_name,
    coordinates,
    method_name,
    selected_cells,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.geometry.compute import TOP_DIRECTIONS

HEADINGS = (
    "text and base",
    "method",
    "rank",
    "seeds",
    "update / base, %",
    "effective rank",
    f"intruders of {TOP_DIRECTIONS}",
    "change on test",
    "forgetting",
)
CAPTION = (
    "Cells at their selected learning rate, means over seeds. The norm is that of the update of all weights; effective "
    "rank and intruder dimensions are means over the linear layers of the decoder. geometry.parquet has a row for each."
)
NORM_CAPTION = (
    "against the Frobenius norm of the update relative to the base's; bars are 95 % intervals over documents; lower is "
    "better."
)
RANK_CAPTION = (
    "Mean effective rank of a matrix's update against its nominal rank; the dashed line is the maximum for a product "
    "of two factors (DoRA also rescales the rows)."
)
IS_MEASURED = has("update_norm_relative")
OR_ELSE = (
    ", or did not when the cell was trained and its weights were not kept, or the form of an update is not supported"
)


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources.rows)]


def section(rows: Sequence[Row]) -> Section | None:
    """The section; None if no cell is finished."""
    said = [text for text in (*statements(rows), unmeasured(rows, IS_MEASURED, "geometry", OR_ELSE)) if text]
    if not said:
        return None
    return Section(
        "geometry",
        "How far did the weights move?",
        said,
        figures(rows),
        headings=HEADINGS,
        table=table(rows),
        caption=CAPTION,
    )


def statements(rows: Sequence[Row]) -> list[str]:
    """One sentence per method, text and base; seeds as their mean and range."""
    return [_sentence(group, rows) for group in measured_groups(rows, IS_MEASURED)]


def _sentence(group: Sequence[Row], rows: Sequence[Row]) -> str:
    first = group[0]
    norm = over_seeds([100 * row["update_norm_relative"] for row in group], 2)
    sentence = (
        f"{method_name(first)}{at_tuned_rate(first, rows)} on {text_name(first)}{coordinates(first, rows)} moved the "
        f"weights by {norm} % of their norm"
    )
    if ranks := _values(group, "effective_rank_mean"):
        sentence += f"; the update of a matrix has an effective rank of {over_seeds(ranks, 1)}"
    if intruders := _values(group, "intruder_dimensions"):
        sentence += (
            f", and {over_seeds(intruders, 2)} of the {TOP_DIRECTIONS} strongest singular directions of a fine-tuned "
            "matrix are new to the base"
        )
    layers = str(first.get("decomposed_layers") or "").split(" of ")
    if len(set(layers)) > 1:
        sentence += f" (means over a sample of {layers[0]} of {layers[1]} layers)"
    return f"{sentence}."


def _values(group: Iterable[Row], column: str, scale: float = 1) -> list[float]:
    return [scale * row[column] for row in group if row.get(column) is not None]


def over_seeds(values: Sequence[float], digits: int) -> str:
    """A number, or the mean and range of several."""
    mean = _fixed(statistics.fmean(values), digits)
    if len(values) == 1:
        return mean
    return f"{mean} ({_fixed(min(values), digits)} to {_fixed(max(values), digits)} over {len(values)} seeds)"


def _fixed(value: float, digits: int) -> str:
    """With `digits` decimals; smaller numbers with two significant digits; 0 as 0."""
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits else f"{value:.2g}"


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Rows under HEADINGS, seeds as means."""
    return [
        [
            f"{text_name(group[0])} · {base_name(group[0])}",
            str(group[0]["label"]),
            str(group[0].get("rank") or NO_NUMBER),
            str(len(group)),
            *(
                _fixed(statistics.fmean(values), digits) if values else NO_NUMBER
                for values, digits in (
                    (_values(group, "update_norm_relative", 100), 2),
                    (_values(group, "effective_rank_mean"), 1),
                    (_values(group, "intruder_dimensions"), 2),
                )
            ),
            *(
                signed(statistics.fmean(values)) if values else NO_NUMBER
                for values in (_values(group, "delta_nll"), _values(group, "forgetting"))
            ),
        ]
        for group in measured_groups(rows, IS_MEASURED)
    ]


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Changes against the norm of the update, and effective rank against rank."""
    cells = [{**row, "domain": text_name(row)} for row in selected_cells(rows) if IS_MEASURED(row)]
    if not cells:
        return []
    chart = _by_norm(cells, DELTA, "change of test NLL")
    drawn = [Figure("update_norm", "Update norm and learning", f"Change on the text adapted to {NORM_CAPTION}", chart)]
    if any(row.get("forgetting") is not None for row in cells):
        chart = _by_norm(cells, FORGETTING, "change of NLL on general text")
        caption = f"Change on general text {NORM_CAPTION}"
        drawn.append(Figure("update_norm_forgetting", "Update norm and forgetting", caption, chart))
    adapters = [row for row in cells if row.get("rank") and row.get("effective_rank_mean") is not None]
    if len({row["rank"] for row in adapters}) >= MIN_RANKS_DRAWN:
        drawn.append(Figure("effective_rank", "Rank and effective rank", RANK_CAPTION, _effective_rank(adapters)))
    return drawn


def _by_norm(cells: Sequence[Row], columns: tuple[str, str, str], title: str) -> alt.TopLevelMixin:
    value, lower, upper = columns
    rows = [{**row, "percent": 100 * row["update_norm_relative"]} for row in cells if row.get(value) is not None]
    chart = chart_of_cells(rows, ("percent", *columns))
    first, last = (factor * end(row["percent"] for row in rows) for factor, end in ((0.7, min), (1.4, max)))
    ticks = [step * 10.0**power for power in range(-6, 5) for step in (1, 2, 5) if first <= step * 10.0**power <= last]
    scale, axis = alt.Scale(type="log", nice=False, domain=[first, last]), alt.Axis(values=ticks, format="~g")
    x = alt.X("percent:Q", title="norm of the update, % of the base's", scale=scale, axis=axis)
    title, colour = f"{title}, nats per token", colour_of_method(rows)
    layers = [
        *dashed_zero_lines(chart, "y"),
        interval_bars(chart, lower, x=x, y=alt.Y(f"{lower}:Q", title=title), y2=f"{upper}:Q", color=colour),
        points(chart, 80, x=x, y=alt.Y(f"{value}:Q", title=title), color=colour, shape=shape_of_base(rows)),
    ]
    return panels(layers, rows, (270, 240), wide=True)


def _effective_rank(cells: Sequence[Row]) -> alt.TopLevelMixin:
    rows = [{**row, "label": family} for row in cells for family in _families(row)]
    ranks = sorted({row["rank"] for row in rows})
    chart = chart_of_cells(rows, ("rank", "effective_rank_mean"))
    scale, title, colour = alt.Scale(type="log", base=2), "effective rank of the update", colour_of_method(rows)
    x = alt.X("rank:Q", title="rank", scale=scale, axis=alt.Axis(values=ranks, grid=False))
    y = alt.Y("effective_rank_mean:Q", title=title, scale=scale, axis=alt.Axis(values=ranks))
    mean = alt.Y("mean(effective_rank_mean):Q", title=title, scale=scale)
    layers = [
        chart.mark_line(color=GREY, strokeDash=[4, 3]).encode(x=x, y=alt.Y("rank:Q", scale=scale)),
        chart.mark_line(strokeWidth=2).encode(x=x, y=mean, color=colour, detail="base:N"),
        points(chart, 60, x=x, y=y, color=colour, shape=shape_of_base(rows)),
    ]
    return panels(layers, rows, (270, 240), wide=True)


def _families(row: Row) -> list[str]:
    """The lines that a cell belongs to: its label without the rank, with each rule that gives a stated alpha."""
    if "alpha=" not in str(row["label"]):
        return [label_without_rank(row)]
    return [f"{label_without_rank(row)} alpha={rule}" for rule in alpha_rules(row)]
