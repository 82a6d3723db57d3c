"""Section: methods compared with each other, the first of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftodyssey.display.result_text import (
    NO_NUMBER,
    UNIT,
    Row,
    coordinates,
    ends,
    format_lr,
    grouped,
    method_name,
    signed,
    text_name,
)
from peftodyssey.display.section import Section
from peftodyssey.measures.contrast.table import DOMINANCE, EQUAL_LEARNING, FORGETTING, LEARNING, OWN_RATE
from peftodyssey.stats.contrast import EQUAL, LESS, MORE, NOT_COMPARABLE, UNDECIDED

HEADINGS = ("text", "methods", "at", "quantity", "difference", "interval", "verdict")
CAPTION = (
    "First method minus second, nats per token of test text (learning) and general text (forgetting). Intervals are "
    "95 % and cover clusters (files, papers, articles) and seeds, unless they are said to cover clusters only."
)
VERBS = {LEARNING: ("learns", "learn"), FORGETTING: ("forgets", "forget")}
DIGITS = 3


def section(rows: Sequence[Row]) -> Section | None:
    """A sentence for each pair of methods on each text and base, forgetting at equal learning first."""
    if not rows:
        return None
    said = [
        *(_sentence(row, rows) for row in rows if row["compared_at"] == EQUAL_LEARNING and row["level"] is None),
        *_own_rates(rows),
        *_dominance(rows),
    ]
    table = [_line(row, rows) for row in rows]
    title = "How do the methods compare with each other?"
    return Section("contrast", title, said, headings=HEADINGS, table=table, caption=CAPTION)


def _sentence(row: Row, rows: Sequence[Row]) -> str:
    """One difference in words, with its verdict; without a verdict, what is missing."""
    first, second = _name(row["method"]), _name(row["minus"])
    where = "equal learning" if row["compared_at"] == EQUAL_LEARNING else "their own best rates"
    start = f"{_place(row, rows)}: at {where}"
    verb, plural = VERBS[row["quantity"]]
    covers = f"({row['covers']}{'' if row['covers'] != 'clusters' else ' only'})"
    difference = f"{signed(row['estimate'], DIGITS)} {UNIT} {ends(row['lo'], row['hi'], DIGITS)}"
    if row["verdict"] in (LESS, MORE):
        low, high = sorted((abs(row["lo"]), abs(row["hi"])))
        small = ", by less than the margin" if high < row["margin"] else ""
        amount = f"{abs(row['estimate']):.{DIGITS}f} {UNIT} {row['verdict']}"
        return f"{start} {first} {verb} {amount} than {second} [{low:.{DIGITS}f}, {high:.{DIGITS}f}] {covers}{small}."
    if row["verdict"] == EQUAL:
        inside = f"90 % interval {ends(row['equal_lo'], row['equal_hi'], DIGITS)}"
        within = f"equally much within {row['margin']:g} {UNIT}"
        return f"{start} {first} and {second} {plural} {within}: {signed(row['estimate'], DIGITS)}, {inside} {covers}."
    if row["verdict"] == UNDECIDED:
        return (
            f"{start} it is undecided whether {first} {verb} less or more than {second}: {difference} {covers}; "
            f"{row['decide']} would decide a difference of this size."
        )
    assert row["verdict"] == NOT_COMPARABLE, row["verdict"]
    number = "" if row["estimate"] is None else f" {_without_verdict(row)}."
    return f"{start} {first} and {second} are not comparable: {row['reason']}.{number}"


def _own_rates(rows: Sequence[Row]) -> list[str]:
    """Learning and forgetting of each pair; one sentence for both where neither can be compared."""
    pairs = grouped(
        (row for row in rows if row["compared_at"] == OWN_RATE), lambda row: (_place(row, rows), _pair(row))
    )
    return [text for pair in pairs.values() for text in _own_rate_sentences(pair, rows)]


def _own_rate_sentences(pair: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    if any(row["verdict"] != NOT_COMPARABLE for row in pair):
        return [_sentence(row, rows) for row in pair]
    reasons = "; ".join(dict.fromkeys(reason for row in pair for reason in row["reason"].split("; ")))
    first, second = _name(pair[0]["method"]), _name(pair[0]["minus"])
    numbers = ". ".join(_without_verdict(row) for row in pair)
    start = f"{_place(pair[0], rows)}: at their own best rates"
    return [f"{start} {first} and {second} are not comparable: {reasons}. {numbers}."]


def _without_verdict(row: Row) -> str:
    covers = f" (over {row['covers']}{' only' if row['covers'] == 'clusters' else ''})" if row["lo"] is not None else ""
    difference = f"{signed(row['estimate'], DIGITS)} {UNIT} {ends(row['lo'], row['hi'], DIGITS)}"
    return f"Difference of {row['quantity']} without a verdict: {difference}{covers}"


def _dominance(rows: Sequence[Row]) -> list[str]:
    """One sentence for each pair of methods of which a cell learned more and forgot less."""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["compared_at"] == DOMINANCE:
            key = (_place(row, rows), row["method"], row["minus"], row["method_lr"], row["minus_lr"])
            cells.setdefault(key, {})[row["quantity"]] = row
    said = []
    for (place, method, minus, lr, other_lr), both in cells.items():
        names = [f"{_name(method)} at {format_lr(lr)}", f"{_name(minus)} at {format_lr(other_lr)}"]
        better, worse = names if both[LEARNING]["verdict"] == MORE else names[::-1]
        learned, forgot = (abs(both[quantity]["estimate"]) for quantity in (LEARNING, FORGETTING))
        said.append(
            f"{place}: {better} learned {learned:.{DIGITS}f} {UNIT} more and forgot {forgot:.{DIGITS}f} less than "
            f"{worse}; both differences are clear after correction for all pairs of rates."
        )
    return said


def _line(row: Row, rows: Sequence[Row]) -> list[str]:
    at = str(row["compared_at"])
    if row["compared_at"] == EQUAL_LEARNING:
        at += ", mean of levels" if row["level"] is None else f" of {row['level']:.{DIGITS}f}"
    elif row["method_lr"] is not None:
        at += f" ({format_lr(row['method_lr'])}, {format_lr(row['minus_lr'])})"
    interval = NO_NUMBER if row["lo"] is None else ends(row["lo"], row["hi"], 4)
    interval += ", clusters only" if row["covers"] == "clusters" else ""
    return [
        _place(row, rows),
        f"{row['method']} minus {row['minus']}",
        at,
        str(row["quantity"]),
        signed(row["estimate"], 4),
        interval,
        str(row["verdict"]),
    ]


def _pair(row: Row) -> tuple[str, str]:
    return str(row["method"]), str(row["minus"])


def _place(row: Row, rows: Sequence[Row]) -> str:
    return f"{text_name(row)}{coordinates(row, rows)}"


def _name(label: str) -> str:
    """The method in words within a sentence."""
    name = method_name({"label": label, "method": label.split(" ")[0]})
    return "full fine-tuning" + label[len("full") :] if name.startswith("Full fine-tuning") else name
