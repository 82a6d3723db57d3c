"""Which tokens pay, in sentences with their numbers. Used by the page and the summary.

Made of rows of `results.parquet`, `ledger.parquet` and `concentration.parquet`; only selected cells make statements.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftodyssey.report.sentences import UNIT, Row, groups, interval, name, signed, verdict, where

WORDS = {
    "newline": "newlines", "space": "other white space", "punctuation": "punctuation", "digit": "digits",
    "function_word": "function words", "word_start": "starts of words", "continuation": "continuations of words",
    "special": "control tokens", "other": "other signs",
}  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """The token tables by the cell that their rows are of."""

    ledger: Mapping[tuple[str, ...], Sequence[Row]]
    concentration: Mapping[tuple[str, ...], Sequence[Row]]


def key(row: Row) -> tuple[str, ...]:
    """What tells the cell of a row apart: run, recipe and hash."""
    return (row.get("run") or "", row["recipe"], row["cell"])


def by_cell(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows of a token table by their cell."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def statements(rows: Sequence[Row], tables: Tables) -> list[str]:
    """One sentence per method, text and base whose tokens were measured."""
    measured = ([row for row in group if key(row) in tables.ledger] for group in groups(rows))
    return [_statement(group, rows, tables) for group in measured if group]


def unmeasured(rows: Sequence[Row], tables: Tables) -> str:
    """Why there is nothing to say of the tokens, or of some cells; empty where all are measured."""
    left = [row for group in groups(rows) for row in group if key(row) not in tables.ledger]
    if not left:
        return ""
    recipes = ", ".join(sorted({row["recipe"] for row in left}))
    return f"Not measured for {len(left)} cell{'s' * (len(left) > 1)}: `measure` of {recipes} does not ask for `tokens`."


def _statement(group: Sequence[Row], rows: Sequence[Row], tables: Tables) -> str:
    """Which class adds most to the change, whether its interval says so, and how few types carry the rise."""
    first = group[0]
    parts: dict[str, list[Row]] = {}
    for row in group:
        for entry in tables.ledger[key(row)]:
            if entry["factor"] == "class":
                parts.setdefault(entry["name"], []).append(entry)
    mean = {label: statistics.fmean(entry["part"] for entry in entries) for label, entries in parts.items()}
    whole = signed(statistics.fmean(row["delta_nll"] for row in group))
    most, least = max(mean, key=lambda label: mean[label]), min(mean, key=lambda label: mean[label])
    said = f"{name(first)} on {first['domain']}{where(first, rows)}: "
    if mean[most] > 0 and verdict(parts[most], "part_lo", "part_hi") in ("worse", "no interval, so no verdict"):
        share = statistics.fmean(e["tokens"] for e in parts[most]) / statistics.fmean(row["test_tokens"] for row in group)
        said += f"most is paid by {WORDS[most]}, {_amount(parts[most])} of the change of {whole}, with {percent(share)} of the tokens."
    else:
        said += f"no class of tokens pays (the highest: {WORDS[most]}, {_amount(parts[most])})."
        if mean[least] < 0:
            said += f" Most is gained by {WORDS[least]}, {_amount(parts[least])} of the change of {whole}."
    return said + _carried([_types(row, tables) for row in group])


def _types(row: Row, tables: Tables) -> Row:
    return next(entry for entry in tables.concentration[key(row)] if entry["unit"] == "types")


def _carried(found: Sequence[Row]) -> str:
    rose = [entry for entry in found if entry["half"] is not None]
    if not rose:
        return " No token type rose."
    half, most = (statistics.fmean(entry[column] for entry in rose) for column in ("half", "most"))
    return f" Half of all that rose lies on {percent(half)} of the token types, 90 % of it on {percent(most)}."


def _amount(entries: Sequence[Row]) -> str:
    if len(entries) == 1:
        estimate, _, rest = interval(entries[0], "part", "part_lo", "part_hi").partition(" ")
        return f"{estimate} {UNIT} {rest}".rstrip()
    values = [entry["part"] for entry in entries]
    return f"{signed(statistics.fmean(values))} {UNIT} (mean of {len(values)} seeds, {signed(min(values))} to {signed(max(values))})"


def percent(share: float | None) -> str:
    """A share with two digits that count: 0.081 %, 1.9 %, 45 %."""
    return "-" if share is None else f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
