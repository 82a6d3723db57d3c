"""Section: whether a constraint on the update helps.

A constrained cell is compared with the same method without the constraint, and at equal learning with WiSE-FT: a
share of the unconstrained update that has learned as much needs no training, so a constraint has to forget less.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from peftodyssey.display.chart_style import (
    Figure,
    chart_of,
    chart_of_cells,
    colour_of_method,
    dashed_zero_lines,
    frontier_bars,
    panels,
    points,
)
from peftodyssey.display.result_text import (
    DELTA,
    FORGETTING,
    Row,
    amount,
    columns_of,
    coordinates,
    grouped,
    method_name,
    seed_key,
    selected_cells,
    setting,
    signed,
    text_name,
    verdict,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.wise_ft.compute import forgetting_at_change
from peftodyssey.measures.wise_ft.table import TABLE

CONSTRAINTS = ("l2_sp", "norm_ball", "replay", "early_stop")
SAME_METHOD = ("method", "rank", "alpha", "targets", "quant")
CAPTION = (
    "Change on the text adapted to against change on general text at the selected learning rate, one point per seed, "
    "with 95 % intervals over documents; lower left is better. Lines: shares of the finished update from the base "
    "(0) to the whole update (WiSE-FT). A constraint below its method's line does better than scaling the update "
    "back."
)


@dataclass(frozen=True)
class Pair:
    """A constrained cell, the same method's unconstrained cell of its seed, and WiSE-FT's forgetting at its change."""

    constrained: Row
    unconstrained: Row
    wise_forgetting: float | None

    @property
    def difference(self) -> float | None:
        """Forgetting of the constrained cell minus that of WiSE-FT; negative: the constraint forgets less."""
        return None if self.wise_forgetting is None else self.constrained["forgetting"] - self.wise_forgetting


def is_constrained(row: Row) -> bool:
    """Whether the cell was trained with a constraint."""
    return any(row.get(name) for name in CONSTRAINTS)


def wise_curve(row: Row, wise: Sequence[Row]) -> list[Row]:
    """The rows of `wise_ft.parquet` of a cell, from the base to the whole update."""
    key = columns_of("cell", "recipe", "run")
    own = [point for point in wise if key(point) == key(row) and point.get("forgetting") is not None]
    return sorted(own, key=lambda point: point["share"])


def pairs(rows: Sequence[Row], wise: Sequence[Row]) -> list[list[Pair]]:
    """Every constrained cell with its unconstrained one, grouped by setting and label (over seeds)."""

    def key(row: Row) -> tuple[str, ...]:
        return (*setting(row), *(str(row.get(name)) for name in SAME_METHOD), row["seed"])

    unconstrained = {key(row): row for row in selected_cells(rows) if not is_constrained(row)}
    found = []
    for row in filter(is_constrained, selected_cells(rows)):
        reference = unconstrained.get(key(row))
        if reference is not None and row.get("forgetting") is not None:
            curve = [(point["share"], point["delta_nll"], point["forgetting"]) for point in wise_curve(reference, wise)]
            found.append(Pair(row, reference, forgetting_at_change(curve, row["delta_nll"])))
    return list(grouped(found, lambda pair: seed_key(pair.constrained)).values())


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources.rows, sources.table(TABLE))]


def section(rows: Sequence[Row], wise: Sequence[Row]) -> Section | None:
    """The section; None if there is no constraint and no share of an update was scored."""
    drawn = figures(rows, wise)
    if not drawn:
        return None
    said = statements(rows, wise)
    if not said:
        curves = sum(bool(wise_curve(row, wise)) for row in selected_cells(rows))
        said = [
            "Not measured: no constraint has the same method without one to compare with; the figure shows shares of "
            f"{curves} finished updates."
        ]
    return Section("constraints", "Does constraining the update help?", said, drawn)


def statements(rows: Sequence[Row], wise: Sequence[Row]) -> list[str]:
    """One sentence per constraint and text: learning, forgetting, and whether scaling the update back does as well."""
    return [_sentence(group, rows) for group in pairs(rows, wise)]


def _sentence(group: Sequence[Pair], rows: Sequence[Row]) -> str:
    constrained, unconstrained = [pair.constrained for pair in group], [pair.unconstrained for pair in group]
    first = constrained[0]
    steps = [str(row["steps"]) for row in constrained if row.get("stopped_at_step")]
    stopped = f" (weights of step {', '.join(steps)} were kept)" if steps else ""
    learned, forgot = (
        signed(statistics.fmean(row[column] for row in unconstrained)) for column in ("delta_nll", "forgetting")
    )
    return (
        f"{text_name(first)}{coordinates(first, rows)}, {method_name(first)}{stopped}: {amount(constrained, DELTA)} "
        f"on test, where {method_name(unconstrained[0])} changed by {learned}; {amount(constrained, FORGETTING)} on "
        f"general text, against {forgot}. {_verdict(group)}"
    )


def _verdict(group: Sequence[Pair]) -> str:
    method = method_name(group[0].unconstrained)
    differences = [pair.difference for pair in group if pair.difference is not None]
    if len(differences) < len(group):
        return f"There is no comparison at equal learning: no scored share of {method}'s update learned as much."
    shifted = [_shifted(pair) for pair in group]
    outcome = verdict(
        shifted,
        FORGETTING,
        better="the constraint forgets less than scaling the update back",
        worse="scaling the update back, which needs no training, forgets less",
        unclear="no clear difference from scaling the update back",
    )
    return (
        f"Compared with the share of {method}'s own update that learned as much, forgetting differs by "
        f"{amount(shifted, FORGETTING)}: {outcome}."
    )


def _shifted(pair: Pair) -> dict[str, float | None]:
    """Forgetting of the constrained cell with its interval, less that of WiSE-FT at the same change."""
    row, other = pair.constrained, pair.wise_forgetting
    assert other is not None, "the group has a comparison"
    return {name: None if row.get(name) is None else row[name] - other for name in FORGETTING}


def figures(rows: Sequence[Row], wise: Sequence[Row]) -> list[Figure]:
    """Learning against forgetting by constraint, with WiSE-FT's curves."""
    cells = [row for row in selected_cells(rows) if row.get("forgetting") is not None]
    shares = [{**row, **point} for row in cells for point in wise_curve(row, wise)]
    if not shares and not any(map(is_constrained, cells)):
        return []
    chart = _frontier(cells, shares, rows)
    return [Figure("constraints", "Learning against forgetting by constraint", CAPTION, chart)]


def _frontier(cells: Sequence[Row], shares: Sequence[Row], rows: Sequence[Row]) -> alt.TopLevelMixin:
    values = [
        {**value, "kind": kind, "share": row.get("share"), "domain": text_name(row)}
        for kind, own in (("cell", cells), ("share", shares))
        for row, value in zip(own, chart_of_cells(own, (*DELTA, *FORGETTING)).data.values, strict=True)
    ]
    chart = chart_of(values)
    axis = alt.Axis(tickCount=5, grid=True)
    x = alt.X("delta_nll:Q", title="change on the text adapted to, nats per token", axis=axis)
    y = alt.Y("forgetting:Q", title="change on general text, nats per token")
    colour = colour_of_method(selected_cells(rows))
    of_shares, of_cells = (chart.transform_filter(f"datum.kind == '{kind}'") for kind in ("share", "cell"))
    lines = of_shares.mark_line(strokeWidth=2, opacity=0.7)
    marks = of_shares.mark_point(size=26, filled=True, fill="white", strokeWidth=1.4, opacity=1)
    layers = [
        *dashed_zero_lines(chart, "xy"),
        lines.encode(x=x, y=y, color=colour, detail=["base:N", "seed:N"], order="share:Q"),
        marks.encode(x=x, y=y, stroke=colour.legend(None)),
        *frontier_bars(of_cells, x, y, colour),
        points(of_cells, 90, x=x, y=y, color=colour),
    ]
    texts = [{"domain": text_name(row)} for row in cells]
    return panels(layers, texts, (330, 290), wide=True, independent="xy")
