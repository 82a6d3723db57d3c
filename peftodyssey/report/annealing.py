"""Costs in two arms of a ladder at the same pretraining tokens, as a section.

An annealed rung is a constant-rate one with the decay of the learning rate added, so the difference is what the decay
does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.report.noise import tokens
from peftodyssey.report.result_text import UNIT, interval
from peftodyssey.report.section import Section

Row = Mapping[str, Any]
SECTION = "arms"
QUESTION = "Does the arm of the ladder matter at the same pretraining tokens?"
HEADINGS = ("text", "what", "pretraining", "arms", "difference of its cost")
CAPTION = (
    "Nats per token with 95 % intervals over repetitions (pairs of noise, seeds) and documents, given these bases."
)
COSTS = {"noise": "noise", "forgetting": "forgetting", "learning": "the change on the text adapted to"}
OF_LINE = ("run", "recipe", "model", "arm", "minus", "corpus", "domain", "quantity", "intervention", "gamma")


def section(arms: Sequence[Row]) -> Section | None:
    """A sentence for Gaussian noise at its largest and for forgetting by method, and a table of everything; None
    without two arms.
    """
    said = [_said(found) for found in _lines(arms) if _speaks(found[0], arms)]
    if not said:
        return None
    lines = [
        [
            str(row["corpus"]),
            _what(row),
            tokens(row["pretrain_tokens"]),
            f"{row['arm']} minus {row['minus']}",
            interval(row, "change", "lo", "hi", 4),
        ]
        for found in _lines(arms)
        for row in found
    ]
    return Section(SECTION, QUESTION, said, HEADINGS, lines, CAPTION)


def _lines(arms: Sequence[Row]) -> list[list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in arms:
        found.setdefault(tuple(row.get(name) for name in OF_LINE), []).append(row)
    return [sorted(rows, key=lambda row: row["pretrain_tokens"]) for rows in found.values()]


def _speaks(row: Row, arms: Sequence[Row]) -> bool:
    """Whether a line has a sentence; the others are in the table alone."""
    if row["quantity"] == "noise":
        sizes = [other["gamma"] for other in arms if other["quantity"] == "noise" and other["gamma"] is not None]
        return row["intervention"] == "gaussian" and row["gamma"] == max(sizes)
    return row["quantity"] == "forgetting"


def _what(row: Row) -> str:
    if row["quantity"] != "noise":
        return f"{COSTS[row['quantity']]}, {row['intervention']}" + (
            f" on {row['domain']}" if row["quantity"] == "forgetting" else ""
        )
    return f"noise, {row['intervention']}" + (f" of gamma {row['gamma']:g}" if row["gamma"] is not None else "")


def _said(rows: Sequence[Row]) -> str:
    first = rows[0]
    costs = ", ".join(f"{interval(row, 'change', 'lo', 'hi', 4)} at {tokens(row['pretrain_tokens'])}" for row in rows)
    where, does = (
        (first["corpus"], f"{_what(first)} costs")
        if first["quantity"] == "noise"
        else (first["domain"], f"{first['intervention']} forgets")
    )
    return f"{where}, {first['arm']} minus {first['minus']}: {does} {costs} {UNIT}: {_verdict(rows)}."


def _verdict(rows: Sequence[Row]) -> str:
    """What the intervals of all rungs say together."""
    first = rows[0]
    if any(row["lo"] is None for row in rows):
        return "no interval, so no verdict"
    if all(row["lo"] > 0 for row in rows):
        return f"it costs the {first['arm']} base more"
    if all(row["hi"] < 0 for row in rows):
        return f"it costs the {first['minus']} base more"
    return "no clear difference" if len(rows) == 1 else "no difference that holds on every rung"
