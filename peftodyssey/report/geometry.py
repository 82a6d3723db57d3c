"""Geometry of the updates: sentences, figures and a table of the selected cells."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import (
    GREY,
    Figure,
    base,
    by_domain,
    colour_of_method,
    plain,
    shape,
    styled,
)
from peftodyssey.report.ranks import alpha_rules, kind
from peftodyssey.report.section import Section
from peftodyssey.stats.geometry import TOP_DIRECTIONS

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION = "geometry"
FEWEST_RANKS = 2  # of one method and text, for a figure over the rank
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
    "Cells at their selected learning rate, means over seeds. The norm is that of the update of all weights; "
    "effective rank and intruders are "
    "means over the linear maps of the decoder layers. Each of them has a row in geometry.parquet."
)


def section(rows: Sequence[Row]) -> Section | None:
    """The question of distance; None where no cell is finished."""
    said = [text for text in (*statements(rows), unmeasured(rows)) if text]
    return Section(SECTION, "How far did the weights travel?", said, HEADINGS, table(rows), CAPTION) if said else None


def is_measured(row: Row) -> bool:
    """Whether the cell's update was measured."""
    return row.get("update_norm_relative") is not None


def statements(rows: Sequence[Row]) -> list[str]:
    """One sentence a method, text and base; seeds as their mean and range."""
    return [
        _said(found, rows)
        for group in result_text.groups(rows)
        if (found := [row for row in group if is_measured(row)])
    ]


def _said(group: Sequence[Row], rows: Sequence[Row]) -> str:
    first = group[0]
    tuned = " at its tuned learning rate" if result_text.is_tuned(first, rows) else ""
    said = (
        f"{result_text.method_name(first)}{tuned} on "
        f"{result_text.text_name(first)}{result_text.where(first, rows)} moved the weights by "
    )
    said += f"{over_seeds([100 * row['update_norm_relative'] for row in group], 2)} % of their norm"
    ranks, intruders = (_there(group, column) for column in ("effective_rank_mean", "intruder_dimensions"))
    if ranks:
        said += f"; the update of a matrix has an effective rank of {over_seeds(ranks, 1)}"
    if intruders:
        said += (
            f", and {over_seeds(intruders, 2)} of the {TOP_DIRECTIONS} strongest directions of a tuned matrix "
            f"are new to the base"
        )
    layers = str(first.get("decomposed_layers") or "").split(" of ")
    if len(set(layers)) > 1:
        said += f" (means over a sample of {layers[0]} of {layers[1]} layers)"
    return f"{said}."


def _there(group: Sequence[Row], column: str) -> list[float]:
    return [row[column] for row in group if row.get(column) is not None]


def over_seeds(values: Sequence[float], digits: int) -> str:
    """A number, or the mean and range of several."""
    middle = _short(statistics.fmean(values), digits)
    if len(values) == 1:
        return middle
    return f"{middle} ({_short(min(values), digits)} to {_short(max(values), digits)} over {len(values)} seeds)"


def _short(value: float, digits: int) -> str:
    """With `digits` decimals, small numbers with two significant places, none as 0."""
    if value == 0:
        return "0"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits else f"{value:.2g}"


def unmeasured(rows: Sequence[Row]) -> str:
    """Why there is nothing to say of some cells; empty where all are measured."""
    left = [row for row in result_text.selected_cells(rows) if not is_measured(row)]
    if not left:
        return ""
    number = f"{len(left)} cell{'s' * (len(left) > 1)}"
    return (
        f"Not measured for {number}: `measure` of {', '.join(sorted({str(row['recipe']) for row in left}))} does "
        f"not ask for `geometry`, "
        "or did not when the cell was trained and its weights were not kept, or an update has no form that could "
        "be read."
    )


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Lines under HEADINGS, seeds as means."""
    lines = []
    for group in result_text.groups(rows):
        if not (found := [row for row in group if is_measured(row)]):
            continue
        first = found[0]
        numbers = [
            _short(statistics.fmean(values), digits)
            if (values := [scale * value for value in _there(found, column)])
            else result_text.NO_NUMBER
            for column, scale, digits in (
                ("update_norm_relative", 100, 2),
                ("effective_rank_mean", 1, 1),
                ("intruder_dimensions", 1, 2),
            )
        ]
        changes = [
            result_text.signed(statistics.fmean(values)) if (values := _there(found, column)) else result_text.NO_NUMBER
            for column in ("delta_nll", "forgetting")
        ]
        rank = str(first["rank"]) if first.get("rank") else result_text.NO_NUMBER
        lines.append(
            [
                f"{result_text.text_name(first)} · {base(first)}",
                str(first["label"]),
                rank,
                str(len(found)),
                *numbers,
                *changes,
            ]
        )
    return lines


def figures(rows: Sequence[Row]) -> list[Figure]:
    """The distance against what changed, and the effective rank against the rank."""
    picked = [
        {**row, "domain": result_text.text_name(row)} for row in result_text.selected_cells(rows) if is_measured(row)
    ]
    if not picked:
        return []
    far = (
        "against the Frobenius norm of the update as a share of the base's; bars are 95 % intervals from "
        "documents; lower is better."
    )
    made = [
        Figure(
            "distance",
            "Distance and learning",
            f"Change on the text adapted to {far}",
            _distance(picked, "delta"),
            SECTION,
        )
    ]
    if any(row.get("forgetting") is not None for row in picked):
        made.append(
            Figure(
                "distance_forgetting",
                "Distance and forgetting",
                f"Change on general text {far}",
                _distance(picked, "forgetting"),
                SECTION,
            )
        )
    low = [row for row in picked if row.get("rank") and row.get("effective_rank_mean") is not None]
    if len({row["rank"] for row in low}) >= FEWEST_RANKS:
        caption = (
            "Mean effective rank of a matrix's update against the rank that it may have; the dashed line is the most "
            "that a product of two factors can have; DoRA also rescales the rows."
        )
        made.append(Figure("rank_used", "Rank and effective rank", caption, _rank_used(low), SECTION))
    return made


COLUMNS = {
    "delta": ("delta_nll", "delta_lo", "delta_hi", "change of test NLL"),
    "forgetting": ("forgetting", "forgetting_lo", "forgetting_hi", "change of NLL on general text"),
}


def _distance(rows: Sequence[Row], what: str) -> alt.TopLevelMixin:
    import altair as alt

    value, low, high, title = COLUMNS[what]
    rows = [{**row, "percent": 100 * row["update_norm_relative"]} for row in rows if row.get(value) is not None]
    chart = alt.Chart(plain(rows, ("percent", value, low, high)))
    title = f"{title}, nats per token"
    low_end, high_end = (factor * end(row["percent"] for row in rows) for factor, end in ((0.7, min), (1.4, max)))
    ticks = [
        step * 10.0**power for power in range(-6, 5) for step in (1, 2, 5) if low_end <= step * 10.0**power <= high_end
    ]
    scale = alt.Scale(type="log", nice=False, domain=[low_end, high_end])
    across = alt.X(
        "percent:Q", title="norm of the update, % of the base's", scale=scale, axis=alt.Axis(values=ticks, format="~g")
    )
    up = alt.Y(f"{value}:Q", title=title)
    colour = colour_of_method(rows)
    zero = chart.mark_rule(color="#b6bec7", strokeDash=[3, 3]).encode(y=alt.datum(0))
    bars = chart.mark_rule(strokeWidth=1.5).encode(
        x=across, y=alt.Y(f"{low}:Q", title=title), y2=f"{high}:Q", color=colour
    )
    dots = chart.mark_point(filled=True, opacity=1, size=80).encode(x=across, y=up, color=colour, shape=shape(rows))
    return styled(
        by_domain(alt.layer(zero, bars, dots, data=chart.data).properties(width=270, height=240), rows, wide=True)
    )


def _rank_used(rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    kinds = [{**row, "label": name} for row in rows for name in _families(row)]
    ranks = sorted({row["rank"] for row in rows})
    chart = alt.Chart(plain(kinds, ("rank", "effective_rank_mean")))
    scale = alt.Scale(type="log", base=2)
    across = alt.X("rank:Q", title="rank", scale=scale, axis=alt.Axis(values=ranks, grid=False))
    up = alt.Y("effective_rank_mean:Q", title="effective rank of the update", scale=scale, axis=alt.Axis(values=ranks))
    colour = colour_of_method(kinds)
    most = chart.mark_line(color=GREY, strokeDash=[4, 3]).encode(x=across, y=alt.Y("rank:Q", scale=scale))
    lines = chart.mark_line(strokeWidth=2).encode(
        x=across,
        y=alt.Y("mean(effective_rank_mean):Q", title="effective rank of the update", scale=scale),
        color=colour,
        detail="base:N",
    )
    dots = chart.mark_point(filled=True, opacity=1, size=60).encode(x=across, y=up, color=colour, shape=shape(kinds))
    return styled(
        by_domain(alt.layer(most, lines, dots, data=chart.data).properties(width=270, height=240), kinds, wide=True)
    )


def _families(row: Row) -> list[str]:
    """The label without its rank, and with the rule that gave alpha where labels tell it: the lines that a cell belongs
    to.
    """
    if "alpha=" not in str(row["label"]):
        return [kind(row)]
    return [f"{kind(row)} alpha={rule}" for rule in alpha_rules(row)]
