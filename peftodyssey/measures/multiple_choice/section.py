"""Section: whether accuracy on prompts with choices changed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import altair as alt

from peftodyssey.display.chart_style import (
    COLOURS,
    GREY,
    INK,
    WIDTH,
    Figure,
    chart_of,
    lane_height,
    panels,
    points,
    shape_of_base,
    y_methods,
)
from peftodyssey.display.result_text import (
    NO_NUMBER,
    Row,
    amount,
    base_name,
    columns_of,
    coordinates,
    grouped,
    method_name,
    seed_key,
    selected_cells,
    signed,
    text_name,
    verdict,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.multiple_choice.table import TABLE

TITLE = "Did the skill change?"
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
CAPTION = (
    "Share of the prompts whose most likely choice is correct. Per byte: log-likelihoods divided by the bytes of the "
    "choice. Brackets are 95 % intervals, paired by prompt (Tango); p is that of McNemar's exact test."
)
FIGURE_CAPTION = (
    "Accuracy of the most likely choice before (grey) and after adaptation, with 95 % intervals over prompts; the "
    "dashed line is guessing. Right of grey is better."
)
ACCURACY = ("acc_delta", "acc_lo", "acc_hi")
ACCURACY_PER_BYTE = ("acc_norm_delta", "acc_norm_lo", "acc_norm_hi")
STAGES = {"before": ("base", GREY), "after": ("adapted", COLOURS[0])}


def joined(rows: Sequence[Row], results: Sequence[Row]) -> list[Row]:
    """The selected cells with the columns of `tasks.parquet` (`results`), once for each of their tasks."""
    key = columns_of("run", "cell", "recipe")
    of_cell = grouped(results, key)
    return [{**row, **result} for row in selected_cells(rows) for result in of_cell.get(key(row), ())]


def statements(rows: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """One sentence for cells that differ in their seed only, then one about each task."""
    cells = joined(rows, results)
    groups = grouped(cells, lambda row: (row["task"], *seed_key(row))).values()
    tasks = {row["task"]: row for row in cells}
    return [*(_sentence(group, rows) for group in groups), *map(_about_task, tasks.values())]


def _sentence(group: Sequence[Row], rows: Sequence[Row]) -> str:
    first = group[0]
    before, after = (percent(statistics.fmean(row[column] for row in group)) for column in ("acc_before", "acc_after"))
    outcome = verdict(group, ACCURACY, better="worse", worse="better")  # a positive change is better here
    per_byte = signed(100 * statistics.fmean(row["acc_norm_delta"] for row in group), 1)
    return (
        f"{method_name(first)} trained on {text_name(first)}{coordinates(first, rows)} changed accuracy on "
        f"{first['task']} from {before} to {after}, by {_points(group, ACCURACY)}: {outcome}; per byte of the choice "
        f"by {per_byte} points."
    )


def _points(group: Sequence[Row], columns: Sequence[str]) -> str:
    """A change of accuracy in percentage points: `+6.2 points [+3.1, +9.3]`."""
    return amount(group, columns, " points", 1, 100)


def _about_task(row: Row) -> str:
    truncated = f" {row['truncated']:,} choices lost the beginning of a prompt that is longer than the model's context."
    return (
        f"{row['task']} has {row['examples']:,} prompts; guessing is correct on {percent(row['chance'])} of them."
        f"{truncated if row['truncated'] else ''}"
    )


def percent(share: float | None) -> str:
    """A share in percent with one decimal."""
    return NO_NUMBER if share is None else f"{100 * share:.1f} %"


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources.rows, sources.table(TABLE))]


def section(rows: Sequence[Row], results: Sequence[Row]) -> Section | None:
    """Statements and one row per cell and task, or why there are none; None if no cell is finished."""
    if not selected_cells(rows):
        return None
    cells = joined(rows, results)
    if not cells:
        reason = (
            "Not measured: the recipe names no tasks (tasks: [bundled/arxiv_field]), which can be added without "
            "training again."
        )
        return Section("tasks", TITLE, [reason])
    runs = ["run"] if any(row.get("run") for row in cells) else []
    table = [[*(str(row[name]) for name in runs), *_table_row(row)] for row in cells]
    headings = (*runs, *HEADINGS)
    return Section(
        "tasks",
        TITLE,
        statements(rows, results),
        figures(rows, results),
        headings=headings,
        table=table,
        caption=CAPTION,
    )


def _table_row(row: Row) -> Iterator[str]:
    yield from (row["task"], text_name(row), base_name(row), row["label"], str(row["seed"]))
    yield from (percent(row[f"acc_{stage}"]) for stage in ("before", "quantised", "after"))
    yield from (_points([row], ACCURACY), str(row["acc_won"]), str(row["acc_lost"]), f"{row['acc_p']:.2g}")
    yield from (percent(row[f"acc_norm_{stage}"]) for stage in ("before", "after"))
    yield _points([row], ACCURACY_PER_BYTE)


def figures(rows: Sequence[Row], results: Sequence[Row]) -> list[Figure]:
    """Accuracy before and after with intervals and that of guessing, one panel per task and text."""
    cells = joined(rows, results)
    return [Figure("tasks", "Accuracy on tasks", FIGURE_CAPTION, _chart(cells))] if cells else []


def _chart(cells: Sequence[Row]) -> alt.TopLevelMixin:
    values = [
        {
            "panel": f"{row['task']}, trained on {text_name(row)}",
            "base": base_name(row),
            "label": row["label"],
            "stage": name,
            "lane": f"{base_name(row)} {row['seed']}",
            "accuracy": 100 * row[f"acc_{stage}"],
            "lo": 100 * row[f"acc_{stage}_lo"],
            "hi": 100 * row[f"acc_{stage}_hi"],
            "chance": 100 * row["chance"],
        }
        for row in cells
        for stage, (name, _) in STAGES.items()
    ]
    chart = chart_of(values)
    y, offset = y_methods(cells)
    names, colours = (list(column) for column in zip(*STAGES.values(), strict=True))
    scale, axis = alt.Scale(domain=names, range=colours), alt.Axis(tickCount=7, grid=True)
    colour = alt.Color("stage:N", scale=scale, sort=names, legend=alt.Legend(title="model"))
    x = alt.X("accuracy:Q", title="accuracy, % of the prompts", scale=alt.Scale(zero=False), axis=axis)
    lane = {"y": y, "yOffset": offset, "color": colour, "detail": "lane:N"}
    layers = [
        chart.mark_rule(color=INK, strokeWidth=1.2, strokeDash=[4, 3]).encode(x="mean(chance):Q"),
        chart.mark_rule(strokeWidth=2.5, opacity=0.75).encode(x="lo:Q", x2="hi:Q", **lane),
        points(chart, 85, x=x, shape=shape_of_base(cells), **lane),
    ]
    return panels(layers, values, (WIDTH, lane_height(cells)), by="panel")
