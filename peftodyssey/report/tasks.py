"""Did accuracy on tasks change? A sentence per method, text and task, and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import (
    COLOURS,
    GREY,
    INK,
    Figure,
    base,
    offset_by_base,
    row_step,
    shape,
    styled,
)
from peftodyssey.report.section import Section

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
SECTION, TITLE = "tasks", "Did the skill change?"
HEADINGS = (
    "task",
    "trained on",
    "base",
    "method",
    "seed",
    "before",
    "quantised",
    "after",
    "change",
    "won",
    "lost",
    "p",
    "per byte, before",
    "per byte, after",
    "per byte, change",
)


def joined(rows: Sequence[Row], answered: Sequence[Row]) -> list[Row]:
    """The headline rows with the columns of `tasks.parquet`, once for each of their tasks."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in answered:
        found.setdefault((row.get("run"), row["cell"], row["recipe"]), []).append(row)
    return [
        {**row, **asked}
        for row in result_text.selected_cells(rows)
        for asked in found.get((row.get("run"), row["cell"], row["recipe"]), ())
    ]


def statements(rows: Sequence[Row], answered: Sequence[Row]) -> list[str]:
    """One sentence for cells that differ in their seed alone, and one about what chance would give."""
    found = joined(rows, answered)
    keys = {(row["task"], *result_text.setting(row), row["label"]): None for row in found}
    said = [
        _said([row for row in found if (row["task"], *result_text.setting(row), row["label"]) == key], rows)
        for key in keys
    ]
    tasks = {row["task"]: row for row in found}
    return said + [_about(row) for row in tasks.values()]


def _said(group: Sequence[Row], rows: Sequence[Row]) -> str:
    first = group[0]
    words = (
        f"{result_text.method_name(first)} trained on {result_text.text_name(first)}{result_text.where(first, rows)}"
    )
    before, after = (statistics.fmean(row[name] for row in group) for name in ("acc_before", "acc_after"))
    verdict = result_text.verdict(group, "acc_lo", "acc_hi", better="worse", worse="better")  # here more is better
    norm = statistics.fmean(row["acc_norm_delta"] for row in group)
    return (
        f"{words} changed accuracy on {first['task']} from {percent(before)} to {percent(after)}, by "
        f"{_amount(group)}: {verdict}; "
        f"per byte of the choice by {points(norm)}."
    )


def _amount(group: Sequence[Row]) -> str:
    if len(group) == 1:
        return change(group[0])
    values = [row["acc_delta"] for row in group]
    return (
        f"{points(statistics.fmean(values))} (mean of {len(values)} seeds, {points(min(values))} to "
        f"{points(max(values))})"
    )


def _about(row: Row) -> str:
    cut = (
        f" {row['truncated']:,} choices lost the beginning of a prompt longer than the model."
        if row["truncated"]
        else ""
    )
    return f"{row['task']} has {row['examples']:,} prompts; guessing is right in {percent(row['chance'])} of them.{cut}"


def percent(share: float | None) -> str:
    """A share as percent with one digit."""
    return result_text.NO_NUMBER if share is None else f"{100 * share:.1f} %"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{result_text.signed(100 * share, 1)} points"


def change(row: Row, column: str = "acc") -> str:
    """`+6.2 points [+3.1, +9.3]`."""
    low, high = (result_text.signed(100 * row[f"{column}_{end}"], 1) for end in ("lo", "hi"))
    return f"{points(row[f'{column}_delta'])} [{low}, {high}]"


def section(rows: Sequence[Row], answered: Sequence[Row]) -> Section | None:
    """Sentences and one line a cell and task; why there is none where nothing was asked; None where no cell is
    finished.
    """
    if not result_text.selected_cells(rows):
        return None
    if why := unmeasured(rows, answered):
        return Section(SECTION, TITLE, [why])
    found = joined(rows, answered)
    runs = ["run"] if any(row.get("run") for row in found) else []
    caption = (
        "Share of the prompts whose likeliest choice is right. Per byte: likelihoods divided by the length of the "
        "choice. Brackets hold "
        "95 % intervals, paired by prompt (Tango); p is that of McNemar's exact test."
    )
    return Section(
        SECTION, TITLE, statements(rows, answered), (*runs, *HEADINGS), [_line(row, runs) for row in found], caption
    )


def _line(row: Row, runs: Sequence[str]) -> list[str]:
    return [
        *(str(row[name]) for name in runs),
        row["task"],
        result_text.text_name(row),
        base(row),
        row["label"],
        str(row["seed"]),
        percent(row["acc_before"]),
        percent(row["acc_quantised"]),
        percent(row["acc_after"]),
        change(row),
        str(row["acc_won"]),
        str(row["acc_lost"]),
        f"{row['acc_p']:.2g}",
        percent(row["acc_norm_before"]),
        percent(row["acc_norm_after"]),
        change(row, "acc_norm"),
    ]


def unmeasured(rows: Sequence[Row], answered: Sequence[Row]) -> str:
    """Why there is no answer; "" where there is one."""
    if not result_text.selected_cells(rows) or joined(rows, answered):
        return ""
    return (
        "Not measured: the recipe names no tasks (tasks: [bundled/arxiv_field]); they can be added without "
        "training again."
    )


def figures(rows: Sequence[Row], answered: Sequence[Row]) -> list[Figure]:
    """Accuracy before and after with intervals and what guessing gives, one panel a task and text."""
    found = joined(rows, answered)
    if not found:
        return []
    caption = (
        "Accuracy of the likeliest choice before (grey) and after adaptation, with 95 % intervals from the "
        "prompts; dashed: guessing. "
        "Right of grey is better."
    )
    return [Figure("tasks", "Accuracy on tasks", caption, _accuracy(found), SECTION)]


def _accuracy(found: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    stages = {"before": "base", "after": "adapted"}
    values = [
        {
            "panel": f"{row['task']}, trained on {result_text.text_name(row)}",
            "base": base(row),
            "label": row["label"],
            "stage": word,
            "lane": f"{base(row)} {row['seed']}",
            "accuracy": 100 * row[f"acc_{stage}"],
            "lo": 100 * row[f"acc_{stage}_lo"],
            "hi": 100 * row[f"acc_{stage}_hi"],
            "chance": 100 * row["chance"],
        }
        for row in found
        for stage, word in stages.items()
    ]
    source = alt.Chart(alt.Data(values=values))
    height, offset = offset_by_base(found)
    across = alt.X(
        "accuracy:Q",
        title="accuracy, % of the prompts",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(tickCount=7, grid=True),
    )
    scale = alt.Scale(domain=list(stages.values()), range=[GREY, COLOURS[0]])
    colour = alt.Color("stage:N", scale=scale, sort=list(stages.values()), legend=alt.Legend(title="model"))
    guess = source.mark_rule(color=INK, strokeWidth=1.2, strokeDash=[4, 3]).encode(x="mean(chance):Q")
    shared = {"y": height, "yOffset": offset, "color": colour, "detail": "lane:N"}
    bars = source.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x=alt.X("lo:Q"), x2="hi:Q", **shared)
    dots = source.mark_point(filled=True, size=85, opacity=1).encode(x=across, shape=shape(found), **shared)
    layers = alt.layer(guess, bars, dots, data=source.data).properties(width=520, height=row_step(found))
    panels = list(dict.fromkeys(value["panel"] for value in values))
    header = alt.Header(labelAnchor="start", labelOrient="top", labelPadding=6)
    return styled(layers.facet(facet=alt.Facet("panel:N", sort=panels, header=header), columns=1, spacing={"row": 28}))
