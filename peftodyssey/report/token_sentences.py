"""Which tokens pay, in sentences with their numbers. Used by the page and the summary.

Made of rows of `results.parquet`, `token_breakdown.parquet` and `concentration.parquet`; only selected cells make
statements.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from peftodyssey.report.result_text import UNIT, Row, groups, interval, method_name, signed, text_name, verdict, where

WORDS = {
    "newline": "newlines",
    "space": "other white space",
    "punctuation": "punctuation",
    "digit": "digits",
    "function_word": "function words",
    "word_start": "starts of words",
    "continuation": "continuations of words",
    "domain_term": "domain terms",
    "special": "control tokens",
    "other": "other signs",
}

SEEN = 0.0005  # nats per token: what a sentence of three digits shows
MEANT = ("recall_10_before", "recall_10_after", "recall_10_delta", "median_before", "median_after")


@dataclass(frozen=True)
class Tables:
    """The token tables by the cell that their rows are of."""

    ledger: Mapping[tuple[str, ...], Sequence[Row]]
    concentration: Mapping[tuple[str, ...], Sequence[Row]]
    ranks: Mapping[tuple[str, ...], Sequence[Row]]
    terms: Mapping[tuple[str, ...], Sequence[Row]]  # by run, recipe and domain


def key(row: Row) -> tuple[str, ...]:
    """What tells the cell of a row apart: run, recipe and hash."""
    return (row.get("run") or "", row["recipe"], row["cell"])


def tables(ledger: Sequence[Row], concentration: Sequence[Row], ranks: Sequence[Row], terms: Sequence[Row]) -> Tables:
    """The token tables by the cell, or the domain, that their rows are of."""
    return Tables(_by(key, ledger), _by(key, concentration), _by(key, ranks), _by(domain_key, terms))


def domain_key(row: Row) -> tuple[str, ...]:
    """What tells the domain of a row apart: run, recipe and name."""
    return (row.get("run") or "", row["recipe"], row["domain"])


def _by(name: Callable[[Row], tuple[str, ...]], rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(row)
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
    return (
        f"Not measured for {len(left)} cell{'s' * (len(left) > 1)}: `measure` of {recipes} does not ask for `tokens`."
    )


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
    said = f"{method_name(first)} on {text_name(first)}{where(first, rows)}: "
    if mean[most] >= SEEN and verdict(parts[most], "part_lo", "part_hi") in ("worse", "no interval, so no verdict"):
        share = statistics.fmean(e["tokens"] for e in parts[most]) / statistics.fmean(
            row["test_tokens"] for row in group
        )
        said += (
            f"most is paid by {WORDS[most]}, {_amount(parts[most])} of the change of {whole}, with "
            f"{percent(share)} of the tokens."
        )
    else:
        said += f"no class of tokens pays (the highest: {WORDS[most]}, {_amount(parts[most])})."
        if mean[least] < 0:
            said += f" Most is gained by {WORDS[least]}, {_amount(parts[least])} of the change of {whole}."
    terms = [entry for row in group for entry in tables.ranks[key(row)] if entry["positions"] == "domain_term"]
    return said + _carried([_types(row, tables) for row in group]) + (_recalled(terms) if terms else "")


def _types(row: Row, tables: Tables) -> Row:
    return next(entry for entry in tables.concentration[key(row)] if entry["unit"] == "types")


def _carried(found: Sequence[Row]) -> str:
    rose = [entry for entry in found if entry["share_for_50pct"] is not None]
    if not rose:
        return " No token type rose."
    half, most = (
        statistics.fmean(entry[column] for entry in rose) for column in ("share_for_50pct", "share_for_90pct")
    )
    return f" Half of all that rose lies on {percent(half)} of the token types, 90 % of it on {percent(most)}."


def _recalled(found: Sequence[Row]) -> str:
    """What became of the rank of the true token at domain terms."""
    mean = {name: statistics.fmean(entry[name] for entry in found) for name in MEANT}
    gain = signed(100 * mean["recall_10_delta"], 1)
    if len(found) > 1:
        values = [100 * entry["recall_10_delta"] for entry in found]
        ends = f" (mean of {len(found)} seeds, {signed(min(values), 1)} to {signed(max(values), 1)})"
    elif found[0]["recall_10_lo"] is None:
        ends = " [no interval]"
    else:
        ends = f" [{signed(100 * found[0]['recall_10_lo'], 1)}, {signed(100 * found[0]['recall_10_hi'], 1)}]"
    return (
        f" At domain terms ({found[0]['tokens']} tokens) the true token is among the first 10 in "
        f"{percent(mean['recall_10_before'])} of the "
        f"places before and {percent(mean['recall_10_after'])} after, {gain} points{ends}; its median rank goes from "
        f"{mean['median_before']:g} to {mean['median_after']:g}."
    )


def _amount(entries: Sequence[Row]) -> str:
    if len(entries) == 1:
        estimate, _, rest = interval(entries[0], "part", "part_lo", "part_hi").partition(" ")
        return f"{estimate} {UNIT} {rest}".rstrip()
    values = [entry["part"] for entry in entries]
    return (
        f"{signed(statistics.fmean(values))} {UNIT} (mean of {len(values)} seeds, {signed(min(values))} to "
        f"{signed(max(values))})"
    )


def percent(share: float | None) -> str:
    """A share with two digits that count: 0.081 %, 1.9 %, 45 %."""
    return "-" if share is None else f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
