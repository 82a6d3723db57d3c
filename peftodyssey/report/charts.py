"""The figures of results as Altair charts; those of tokens are in `token_charts`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import (
    COLOURS,
    GREY,
    INK,
    WIDTH,
    Figure,
    Rows,
    base,
    by_domain,
    colour_of_method,
    offset_by_base,
    plain,
    row_step,
    shape,
    styled,
)

if TYPE_CHECKING:
    import altair as alt


def figures(rows: Rows, points: Rows) -> list[Figure]:
    """Every figure of results that there is something to show in; `rows` of results, `learning_curves` of points."""
    rows = [
        {**row, "corpus": row["domain"], "domain": result_text.text_name(row)} for row in rows
    ]  # a panel for each policy
    picked = result_text.selected_cells(rows)
    if not picked:
        return []
    made = [
        Figure(
            "change",
            "Change on held-out text",
            "Change of test NLL by text, method and base with 95 % intervals from "
            "documents; left of the line is better.",
            _forest(picked),
        ),
        Figure(
            "before_after",
            "Before and after",
            "Test NLL of the base, of the quantised base where there is one, and after adaptation.",
            _before_after(picked),
        ),
    ]
    if any(row.get("forgetting") is not None for row in picked):
        text = (
            "Each point is a cell: change on the text adapted to against change on general text. "
            "Lower left is better. Large: selected."
        )
        made.insert(1, Figure("frontier", "Learning against forgetting", text, _frontier(rows)))
    if paths := _path_rows(picked, points):
        text = "Validation NLL along training at the selected learning rate, from the base (0 tokens) on."
        made.append(Figure("paths", "Learning paths", text, _paths(paths, rows)))
    return made


def _forest(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    height, offset = offset_by_base(rows)
    source = alt.Chart(plain(rows, ("delta_nll", "delta_lo", "delta_hi")))
    title = "change of test NLL, nats per token (negative: better)"
    colour, ticks = colour_of_method(rows).legend(None), alt.Axis(tickCount=7, grid=True)
    zero = source.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = source.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("delta_lo:Q", title=title, axis=ticks),
        x2="delta_hi:Q",
        y=height,
        yOffset=offset,
        color=colour,
    )
    dots = source.mark_point(filled=True, size=85, opacity=1).encode(
        x=alt.X("delta_nll:Q", title=title), y=height, yOffset=offset, color=colour, shape=shape(rows)
    )
    layers = alt.layer(zero, bars, dots, data=source.data).properties(width=WIDTH, height=row_step(rows))
    return styled(by_domain(layers, rows))


def _before_after(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    height, offset = offset_by_base(rows)
    stages = {"nll_before": "base", "nll_quantised": "quantised base", "nll_after": "adapted"}
    values = [
        {
            "base": base(row),
            "label": row["label"],
            "domain": row["domain"],
            "stage": stage,
            "nll": row[column],
        }
        for row in rows
        for column, stage in stages.items()
        if row.get(column) is not None
    ]
    shown = [stage for stage in stages.values() if any(value["stage"] == stage for value in values)]
    colours = {"base": GREY, "quantised base": COLOURS[4], "adapted": COLOURS[0]}
    scale = alt.Scale(domain=shown, range=[colours[stage] for stage in shown])
    lines = alt.Chart(plain(rows, ("nll_before", "nll_after"))).mark_rule(color="#b6bec7", strokeWidth=2)
    lines = lines.encode(
        x=alt.X("nll_before:Q", title=_NLL, axis=alt.Axis(tickCount=7, grid=True)),
        x2="nll_after:Q",
        y=height,
        yOffset=offset,
    )
    dots = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=85, opacity=1)
    dots = dots.encode(
        x=alt.X("nll:Q", title=_NLL, scale=alt.Scale(zero=False)),
        y=height,
        yOffset=offset,
        color=alt.Color("stage:N", scale=scale, sort=shown, legend=alt.Legend(title="test NLL of the")),
        shape=shape(rows),
    )
    data = alt.Data(values=[*lines.data.values, *dots.data.values])
    layers = alt.layer(
        lines.properties(data=alt.Undefined).transform_filter("isValid(datum.nll_after)"),
        dots.properties(data=alt.Undefined).transform_filter("isValid(datum.nll)"),
        data=data,
    ).properties(width=WIDTH, height=row_step(rows))
    return styled(by_domain(layers, rows))


_NLL = "test NLL, nats per token"


def _frontier(rows: Rows) -> alt.TopLevelMixin:
    import altair as alt

    shown = [r for r in rows if r["status"] == "done" and r.get("forgetting") is not None]
    columns = (
        "delta_nll",
        "delta_lo",
        "delta_hi",
        "forgetting",
        "forgetting_lo",
        "forgetting_hi",
        "selected",
    )
    chart = alt.Chart(plain(shown, columns))
    x = alt.X(
        "delta_nll:Q",
        title="change on the text adapted to, nats per token",
        axis=alt.Axis(tickCount=4, grid=True),
    )
    y = alt.Y("forgetting:Q", title="change on general text, nats per token")
    colour = colour_of_method(rows)
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
    dots = chart.mark_point(filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape(shown), size=size)
    layers = alt.layer(*quiet, trail, *bars, dots, data=chart.data).properties(width=270, height=230)
    return styled(by_domain(layers, shown, wide=True).resolve_scale(x="independent"))


def _path_rows(picked: Rows, points: Rows) -> list[dict[str, Any]]:
    """Validation NLL of the selected cells on their own text, with the base as the point at 0 tokens."""
    made = []
    for row in picked:
        path = [
            point
            for point in points
            if (point["cell"], point["corpus"], point["split"]) == (row["cell"], row["corpus"], "valid")
            and point.get("run") == row.get("run")
            and point["tokens_seen"] > 0
        ]
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
    colour = colour_of_method(rows)
    lines = chart.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, detail="seed:N")
    dots = chart.mark_point(filled=True, size=32, opacity=1).encode(x=x, y=y, color=colour, detail=["seed:N", "base:N"])
    layers = alt.layer(lines, dots, data=chart.data).properties(width=270, height=230)
    return styled(by_domain(layers, paths, wide=True).resolve_scale(y="independent"))
