"""What the page opens with: for each text what the methods did, which to take, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peftodyssey.display.result_text import (
    DELTA,
    FORGETTING,
    NO_CHANGE,
    NO_VERDICT,
    UNIT,
    Row,
    columns_of,
    coordinates,
    ends,
    format_lr,
    grouped,
    method_name,
    seed_key,
    seeds_mean,
    selected_cells,
    setting,
    signed,
    text_name,
    verdict,
)

SMALL = 0.0005  # nats per token: differences that three decimals do not show


@dataclass(frozen=True)
class Line:
    """A method at its selected learning rate, over all seeds."""

    method: str
    lr: str
    edge: bool  # whether a better rate may lie outside of the grid
    seeds: int
    change: str
    change_ends: str
    change_verdict: str  # better, worse, NO_CHANGE or NO_VERDICT
    forgetting: str
    forgetting_ends: str
    forgetting_verdict: str


@dataclass(frozen=True)
class Answer:
    """One text and base: a sentence on which method to take, one on the difference, and the methods."""

    place: str
    advice: str
    lines: Sequence[Line]


def answers(rows: Sequence[Row]) -> list[Answer]:
    """One answer for each text and base that has finished cells, in the order of the rows."""
    selected = selected_cells(rows)
    return [
        Answer(
            f"{text_name(own[0])}{coordinates(own[0], selected)}",
            _advice(own, [row for row in rows if row["status"] == "done" and setting(row) == key]),
            [_line(group) for group in grouped(own, seed_key).values()],
        )
        for key, own in grouped(selected, setting).items()
    ]


def lines(rows: Sequence[Row]) -> list[str]:
    """The answers as lines of text."""
    return [f"{answer.place}: {answer.advice}" for answer in answers(rows)]


def _line(group: Sequence[Row]) -> Line:
    first = group[0]
    change = seeds_mean(group, DELTA)
    forgot = seeds_mean(group, FORGETTING) if all(row.get("forgetting") is not None for row in group) else None
    return Line(
        method_name(first),
        format_lr(first["lr"]),
        bool(first.get("lr_edge")),
        len(group),
        signed(change.estimate),
        ends(change.lower, change.upper),
        verdict(group, DELTA),
        signed(forgot.estimate) if forgot else "",
        ends(forgot.lower, forgot.upper) if forgot else "",
        verdict(group, FORGETTING) if forgot else "",
    )


def _advice(own: Sequence[Row], every: Sequence[Row]) -> str:
    """Which setting learned most, which forgot least, and which lost least over both texts, in at most three parts."""
    chosen = [_Setting.of(group) for group in grouped(own, seed_key).values()]
    tried = [_Setting.of(group) for group in grouped(every, columns_of("label", "setting", "lr")).values()]
    learner = min(chosen, key=lambda one: one.change)
    known = [one for one in chosen if one.forgot is not None]
    if not known or learner.forgot is None:
        return f"{learner.name} {_learned(learner)}{_most(learner, chosen, 'learned most')}."
    keeper = min(known, key=lambda one: one.forgot or 0.0)
    if learner.verdict != "better":
        said = (
            f"No method clearly lowered its loss (the lowest change: {learner.name}, {signed(learner.change)} {UNIT}, "
            f"{learner.verdict}); {keeper.name} forgot least ({signed(keeper.forgot)})."
        )
    elif keeper is learner:
        said = f"{learner.name} {_learned(learner)} and {_forgot(learner)}"
        said += "." if len(chosen) == 1 else ": it learned most and forgot least."
    else:
        said = (
            f"{learner.name} learned most ({signed(learner.change)}) and {_forgot(learner)}; "
            f"{keeper.name} forgot least ({signed(keeper.forgot)}) and {_learned(keeper)}."
        )
    return said + _both(tried, learner, keeper)


def _both(tried: Sequence[_Setting], learner: _Setting, keeper: _Setting) -> str:
    """Of all rates that were tried the setting with the lowest sum of both changes, where it is a different one."""
    known = [one for one in tried if one.forgot is not None]
    best = min(known, key=lambda one: one.change + (one.forgot or 0.0))
    if {best.key} & {learner.key, keeper.key}:
        return ""
    return (
        f" If general text counts as much, {best.name} at {format_lr(best.lr)} did best of all rates tried: "
        f"{signed(best.change)} here, {signed(best.forgot)} there."
    )


def _most(one: _Setting, chosen: Sequence[_Setting], text: str) -> str:
    return f": it {text}" if len(chosen) > 1 and one.change < min(o.change for o in chosen if o is not one) else ""


def _learned(one: _Setting) -> str:
    if one.verdict in (NO_CHANGE, NO_VERDICT, "no change"):
        return f"changed its loss by {signed(one.change)} {UNIT} ({one.verdict})"
    return f"{'lowered' if one.change < 0 else 'raised'} its loss by {abs(one.change):.3f} {UNIT}"


def _forgot(one: _Setting) -> str:
    assert one.forgot is not None, "forgetting was measured"
    if abs(one.forgot) < SMALL:
        return "left the loss on general text as it was"
    return f"{'raised' if one.forgot > 0 else 'lowered'} the loss on general text by {abs(one.forgot):.3f}"


@dataclass(frozen=True)
class _Setting:
    """Cells that differ in their seed only: means over seeds, nats per token."""

    key: tuple[Any, ...]
    name: str
    lr: float | None
    change: float
    forgot: float | None
    verdict: str

    @classmethod
    def of(cls, group: Sequence[Row]) -> _Setting:
        first = group[0]
        forgot = [row["forgetting"] for row in group if row.get("forgetting") is not None]
        return cls(
            (first["label"], first["lr"]),
            method_name(first),
            first["lr"],
            statistics.fmean(row["delta_nll"] for row in group),
            statistics.fmean(forgot) if len(forgot) == len(group) else None,
            verdict(group, DELTA),
        )
