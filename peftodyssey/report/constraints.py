"""Results of constraints on the update: a sentence per constraint, and a figure.

A constraint is compared with the same method without one, and at equal learning: a share of the free method's own
update (WiSE-FT) that has learnt as much costs no training, so a constraint has to forget less than that.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftodyssey.report import result_text
from peftodyssey.report.chart_style import Figure, by_domain, colour_of_method, plain, styled
from peftodyssey.report.section import Section
from peftodyssey.stats.frontier import forgetting_at_change

if TYPE_CHECKING:
    import altair as alt

Row = Mapping[str, Any]
CONSTRAINTS = ("l2_sp", "norm_ball", "replay", "early_stop")
SAME = ("method", "rank", "alpha", "targets", "quant")
SECTION = "constraints"


@dataclass(frozen=True)
class Pair:
    """A cell that is held, the same method's free cell of its seed, and what the free one's update forgets at equal
    learning.
    """

    held: Row
    free: Row
    matched: float | None

    @property
    def difference(self) -> float | None:
        """Forgetting of the held cell minus that of the share; negative: the constraint forgets less."""
        return None if self.matched is None else self.held["forgetting"] - self.matched


def is_held(row: Row) -> bool:
    """Whether a further constraint holds the cell's update."""
    return any(row.get(name) for name in CONSTRAINTS)


def curve(row: Row, wise: Sequence[Row]) -> list[Row]:
    """The points of a cell's curve, from the base to the whole update."""
    mine = [point for point in wise if all(point.get(name) == row.get(name) for name in ("cell", "recipe", "run"))]
    return sorted((point for point in mine if point.get("forgetting") is not None), key=lambda point: point["share"])


def pairs(rows: Sequence[Row], wise: Sequence[Row]) -> list[list[Pair]]:
    """Every held cell beside its free one, seeds of one setting together."""
    free = {_key(row): row for row in result_text.selected_cells(rows) if not is_held(row)}
    found: dict[tuple[Any, ...], list[Pair]] = {}
    for row in filter(is_held, result_text.selected_cells(rows)):
        beside = free.get(_key(row))
        if beside is not None and row.get("forgetting") is not None:
            points = [(point["delta_nll"], point["forgetting"]) for point in curve(beside, wise)]
            found.setdefault((*result_text.setting(row), row["label"]), []).append(
                Pair(row, beside, forgetting_at_change(points, row["delta_nll"]))
            )
    return list(found.values())


def _key(row: Row) -> tuple[Any, ...]:
    return (*result_text.setting(row), *(str(row.get(name)) for name in SAME), row["seed"])


def section(rows: Sequence[Row], wise: Sequence[Row]) -> Section | None:
    """The part of the page; None where nothing is held and no share of an update was scored."""
    made = statements(rows, wise) or [_shares(rows, wise)]
    return Section(SECTION, "Does constraining help?", made) if figures(rows, wise) else None


def _shares(rows: Sequence[Row], wise: Sequence[Row]) -> str:
    """What to read where shares alone were scored, or no held cell has a free twin."""
    curves = sum(bool(curve(row, wise)) for row in result_text.selected_cells(rows))
    return (
        f"Not measured: no constraint stands beside the same method without one; shares of {curves} finished "
        f"updates are drawn."
    )


def statements(rows: Sequence[Row], wise: Sequence[Row]) -> list[str]:
    """One sentence a constraint and text, with what it learnt, forgot, and whether scaling the update back does as
    well.
    """
    return [_said(found, rows) for found in pairs(rows, wise)]


def _said(found: Sequence[Pair], rows: Sequence[Row]) -> str:
    held, free = [pair.held for pair in found], [pair.free for pair in found]
    first = held[0]
    learnt = (
        f"{result_text.amount(held, 'delta_nll', result_text.delta)} on test where "
        f"{result_text.method_name(free[0])} learnt {_mean(free, 'delta_nll')}"
    )
    lost = (
        f"{result_text.amount(held, 'forgetting', result_text.forgetting)} on general text against "
        f"{_mean(free, 'forgetting')}"
    )
    where = f"{result_text.text_name(first)}{result_text.where(first, rows)}"
    return f"{where}, {result_text.method_name(first)}{_stopped(held)}: {learnt}; {lost}. {_verdict(found)}"


def _stopped(held: Sequence[Row]) -> str:
    steps = [str(row["steps"]) for row in held if row.get("stopped_at_step")]
    return f" (kept after {', '.join(steps)} steps)" if steps else ""


def _mean(rows: Sequence[Row], column: str) -> str:
    return result_text.signed(statistics.fmean(row[column] for row in rows))


def _verdict(found: Sequence[Pair]) -> str:
    name = result_text.method_name(found[0].free)
    differences = [pair.difference for pair in found if pair.difference is not None]
    if len(differences) < len(found):
        return f"At equal learning nothing can be said: no share of {name}'s update that was scored learns as much."
    mean = f"{result_text.signed(statistics.fmean(differences))} {result_text.UNIT}"
    seen = (
        mean
        if len(found) == 1
        else (
            f"{mean} ({result_text.signed(min(differences))} to {result_text.signed(max(differences))} over "
            f"{len(found)} seeds)"
        )
    )
    return (
        f"Against the share of {name}'s own update that learns as much, forgetting differs by {seen}: {_word(found)}."
    )


def _word(found: Sequence[Pair]) -> str:
    """Less or more only where every seed says so and, of each, its interval from documents."""
    intervals = [
        (low, high, pair.matched)
        for pair in found
        if (low := pair.held.get("forgetting_lo")) is not None
        and (high := pair.held.get("forgetting_hi")) is not None
        and pair.matched is not None
    ]
    if len(intervals) < len(found):
        return "no interval, so no verdict"
    if all(high < matched for _, high, matched in intervals):
        return "the constraint forgets less than scaling the update back"
    if all(low > matched for low, _, matched in intervals):
        return "scaling the update back, which costs no training, forgets less"
    return "no clear difference from scaling the update back"


def figures(rows: Sequence[Row], wise: Sequence[Row]) -> list[Figure]:
    """Learning against forgetting by constraint, with the curves of shares; none where nothing is held and no share was
    scored.
    """
    shown = [row for row in result_text.selected_cells(rows) if row.get("forgetting") is not None]
    lines = [{**row, **point} for row in shown for point in curve(row, wise)]
    if not lines and not any(map(is_held, shown)):
        return []
    caption = (
        "Change on the text adapted to against change on general text, at the selected learning rate, a point a "
        "seed with 95 % "
        "intervals from documents; lower left is better. Lines: shares of the finished update from the base (0) to "
        "all of it (WiSE-FT); "
        "a constraint below its method's line does what scaling back cannot."
    )
    return [
        Figure(
            "constraints", "Learning against forgetting by constraint", caption, _frontier(shown, lines, rows), SECTION
        )
    ]


def _frontier(shown: Sequence[Row], lines: Sequence[Row], rows: Sequence[Row]) -> alt.TopLevelMixin:
    import altair as alt

    columns = ("delta_nll", "delta_lo", "delta_hi", "forgetting", "forgetting_lo", "forgetting_hi")
    values = [
        {**value, "kind": kind, "share": row.get("share"), "domain": result_text.text_name(row)}
        for kind, own in (("cell", shown), ("share", lines))
        for row, value in zip(own, plain(own, columns).values, strict=True)
    ]
    source = alt.Chart(alt.Data(values=values))
    x = alt.X(
        "delta_nll:Q", title="change on the text adapted to, nats per token", axis=alt.Axis(tickCount=5, grid=True)
    )
    y = alt.Y("forgetting:Q", title="change on general text, nats per token")
    colour = colour_of_method(result_text.selected_cells(rows))
    quiet = [source.mark_rule(color="#b6bec7", strokeDash=[3, 3]).encode(**{axis: alt.datum(0)}) for axis in "xy"]
    shares, cells = source.transform_filter("datum.kind == 'share'"), source.transform_filter("datum.kind == 'cell'")
    trail = shares.mark_line(strokeWidth=2, opacity=0.7).encode(
        x=x, y=y, color=colour, detail=["base:N", "seed:N"], order="share:Q"
    )
    marks = shares.mark_point(size=26, filled=True, fill="white", strokeWidth=1.4, opacity=1).encode(
        x=x, y=y, stroke=colour.legend(None)
    )
    bars = [
        cells.mark_rule(strokeWidth=1.5).encode(x="delta_lo:Q", x2="delta_hi:Q", y=y, color=colour),
        cells.mark_rule(strokeWidth=1.5).encode(x=x, y="forgetting_lo:Q", y2="forgetting_hi:Q", color=colour),
    ]
    dots = cells.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=colour)
    layers = alt.layer(*quiet, trail, marks, *bars, dots, data=source.data).properties(width=330, height=290)
    panels = [{"domain": result_text.text_name(row)} for row in shown]
    return styled(by_domain(layers, panels, wide=True).resolve_scale(x="independent", y="independent"))
