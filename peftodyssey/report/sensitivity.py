"""Whether fine-tuning costs more the longer the pretraining, and by method, in sentences and a figure. Called by `report.build`.

Made of the rows of `sensitivity.parquet` that stand on trained cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report.drawing import COLOURS, INK, WIDTH, Figure, by_domain, styled
from peftodyssey.report.noise import tokens, verdict
from peftodyssey.report.section import Section
from peftodyssey.report.sentences import UNIT, interval

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION = "sensitivity"
QUESTION = "Does fine-tuning cost more the longer the pretraining, and does the method change that?"
QUANTITIES = {"forgetting": "forgetting", "learning": "the change on the text adapted to"}


def _rows(sensitivity: Sequence[Row]) -> list[Row]:
    """Slopes at each rung's selected learning rate."""
    return [row for row in sensitivity if row["quantity"] in QUANTITIES and row["lr"] is None]


def section(sensitivity: Sequence[Row]) -> Section | None:
    """The question with its answers; None where nothing of it was measured."""
    said = statements(sensitivity)
    return Section(SECTION, QUESTION, said) if said else None


def statements(sensitivity: Sequence[Row]) -> list[str]:
    """The differences between methods first, then each method's slope of forgetting; last what they stand on."""
    rows = _rows(sensitivity)
    said = [_difference(row) for row in rows if row["minus"] and row["quantity"] == "forgetting"]
    said += [_slope(row) for row in rows if not row["minus"] and row["quantity"] == "forgetting"]
    if said:
        said.append(
            "Each slope is at the learning rate selected on that rung, over documents and seeds (with one seed over documents alone), "
            "given this ladder: its rungs are one pretraining run, and its text may repeat."
        )
    return said


def _where(row: Row) -> str:
    ladder = f"{tokens(row['tokens_from'])} to {tokens(row['tokens_to'])}, {row['rungs']} rungs"
    return f"{row['domain']}, {row['arm'] or row['model']} ({ladder})"


def _slope(row: Row) -> str:
    return f"{_where(row)}: {row['who']} forgets {interval(row, 'slope', 'slope_lo', 'slope_hi', 4)} {UNIT} more per tenfold pretraining: {verdict(row)}."


def _difference(row: Row) -> str:
    amount = interval(row, "slope", "slope_lo", "slope_hi", 4)
    if row["slope_lo"] is None:
        says = "no interval, so no verdict"
    elif row["slope_lo"] > 0:
        says = f"longer pretraining costs {row['who']} more than {row['minus']}"
    else:
        says = f"longer pretraining costs {row['minus']} more than {row['who']}" if row["slope_hi"] < 0 else "no clear difference between them"
    return f"{_where(row)}: the slope of forgetting of {row['who']} minus that of {row['minus']} is {amount} {UNIT} per tenfold pretraining: {says}."


def figures(sensitivity: Sequence[Row]) -> list[Figure]:
    """Slopes and their differences with intervals."""
    rows = [row for row in _rows(sensitivity) if row["slope"] is not None]
    if not rows:
        return []
    caption = "Slope per tenfold pretraining tokens with 95 % intervals, at each rung's selected learning rate; right of the line, longer pretraining costs more."
    return [Figure("slopes", "How costs grow with pretraining", caption, _forest(rows), SECTION)]


def _forest(rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    values = [
        {
            "domain": f"{row['domain']} · {row['arm'] or row['model']}", "who": f"{row['who']} minus {row['minus']}" if row["minus"] else row["who"],
            "quantity": QUANTITIES[row["quantity"]], "slope": row["slope"], "lo": row["slope_lo"], "hi": row["slope_hi"],
        }
        for row in rows
    ]  # fmt: skip
    names, kinds = list(dict.fromkeys(v["who"] for v in values)), list(dict.fromkeys(v["quantity"] for v in values))
    source = alt.Chart(alt.Data(values=values))
    down = alt.Y("who:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False))
    lane = alt.YOffset("quantity:N", sort=kinds, scale=alt.Scale(paddingOuter=0.6))
    colour = alt.Color(
        "quantity:N", title="slope of", sort=kinds, scale=alt.Scale(domain=kinds, range=list(COLOURS[: len(kinds)])), legend=alt.Legend(orient="bottom")
    )
    title = "nats per token per tenfold pretraining tokens"
    zero = source.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(0))
    bars = source.transform_filter("isValid(datum.lo)").mark_rule(strokeWidth=2.5).encode(
        x=alt.X("lo:Q", title=title), x2="hi:Q", y=down, yOffset=lane, color=colour
    )
    dots = source.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X("slope:Q", title=title, axis=alt.Axis(tickCount=7)), y=down, yOffset=lane, color=colour, shape=alt.Shape("quantity:N", sort=kinds, legend=None)
    )
    layers = alt.layer(zero, bars, dots, data=source.data).properties(width=WIDTH, height=alt.Step(15, **{"for": "offset"}))
    return styled(by_domain(layers, values))
