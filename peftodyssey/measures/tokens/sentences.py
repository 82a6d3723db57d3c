"""Which tokens a change in NLL comes from, in sentences, and the token tables by cell.

Only selected cells make statements.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftodyssey.display import measured
from peftodyssey.display.result_text import (
    NO_VERDICT,
    Row,
    amount,
    grouped,
    percent,
    signed,
    verdict,
)

CLASS_NAMES = {
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
PART = ("part", "part_lo", "part_hi")
RECALL = ("recall_10_delta", "recall_10_lo", "recall_10_hi")
DISPLAYED = 0.0005  # nats per token: the smallest part that three decimals show


@dataclass(frozen=True)
class TokenTables:
    """Rows of the token tables by the cell (terms: by the domain) that they belong to."""

    breakdown: Mapping[tuple[str, ...], Sequence[Row]]
    concentration: Mapping[tuple[str, ...], Sequence[Row]]
    ranks: Mapping[tuple[str, ...], Sequence[Row]]
    terms: Mapping[tuple[str, ...], Sequence[Row]]

    def has_breakdown(self, row: Row) -> bool:
        """Whether the tokens of a cell were measured."""
        return cell_key(row) in self.breakdown


def cell_key(row: Row) -> tuple[str, ...]:
    """Identifies the cell of a row: run, recipe and hash."""
    return (row.get("run") or "", row["recipe"], row["cell"])


def domain_key(row: Row) -> tuple[str, ...]:
    """Identifies the domain of a row: run, recipe and name."""
    return (row.get("run") or "", row["recipe"], row["domain"])


def token_tables(
    breakdown: Sequence[Row] = (),
    concentration: Sequence[Row] = (),
    ranks: Sequence[Row] = (),
    terms: Sequence[Row] = (),
) -> TokenTables:
    """The token tables by cell and domain."""
    return TokenTables(
        grouped(breakdown, cell_key),
        grouped(concentration, cell_key),
        grouped(ranks, cell_key),
        grouped(terms, domain_key),
    )


def statements(rows: Sequence[Row], tables: TokenTables) -> list[str]:
    """One sentence per method, text and base whose tokens were measured."""
    return [_statement(group, rows, tables) for group in measured.measured_groups(rows, tables.has_breakdown)]


def unmeasured(rows: Sequence[Row], tables: TokenTables) -> str:
    """Why some selected cells have no numbers by token; empty if all have."""
    return measured.unmeasured(rows, tables.has_breakdown, "tokens")


def _statement(group: Sequence[Row], rows: Sequence[Row], tables: TokenTables) -> str:
    """The class that adds most to the change, with its interval, and how few token types account for the rise."""
    first = group[0]
    of_cells = [entry for row in group for entry in tables.breakdown[cell_key(row)] if entry["factor"] == "class"]
    classes = grouped(of_cells, lambda entry: str(entry["name"]))
    mean = {name: statistics.fmean(entry["part"] for entry in entries) for name, entries in classes.items()}
    worst, best = max(mean, key=lambda name: mean[name]), min(mean, key=lambda name: mean[name])
    change = f"of the change of {signed(statistics.fmean(row['delta_nll'] for row in group))}"
    part = f"{CLASS_NAMES[worst]}, {amount(classes[worst], PART)}"
    if mean[worst] >= DISPLAYED and verdict(classes[worst], PART) in ("worse", NO_VERDICT):
        tokens, scored = (
            statistics.fmean(row[column] for row in counted)
            for column, counted in (("tokens", classes[worst]), ("test_tokens", group))
        )
        sentence = f"the class that adds most loss is {part} {change}, with {percent(tokens / scored)} of the tokens."
    else:
        sentence = f"no class of tokens clearly adds loss (the highest: {part})."
        if mean[best] < 0:
            sentence += f" Most is gained on {CLASS_NAMES[best]}, {amount(classes[best], PART)} {change}."
    concentration = [
        entry for row in group for entry in tables.concentration[cell_key(row)] if entry["unit"] == "types"
    ]
    terms = [entry for row in group for entry in tables.ranks[cell_key(row)] if entry["positions"] == "domain_term"]
    return (
        f"{measured.subject(first, rows)}: {sentence} {_concentration(concentration)}{_recall(terms) if terms else ''}"
    )


def _concentration(entries: Sequence[Row]) -> str:
    rose = [entry for entry in entries if entry["share_for_50pct"] is not None]
    if not rose:
        return "No token type rose."
    half, most = (percent(statistics.fmean(entry[f"share_for_{p}pct"] for entry in rose)) for p in (50, 90))
    return f"Half of the total rise is on {half} of the token types, 90 % of it on {most}; {_nulls(rose)}."


def _nulls(entries: Sequence[Row]) -> str:
    """The same share where it says nothing of what rose."""
    words = {"fall": "of what fell", "frequency": "of an equal rise of every token", "seed": "between two seeds"}
    shares = {name: [entry.get(f"{name}_share_for_50pct") for entry in entries] for name in words}
    known = {name: [share for share in own if share is not None] for name, own in shares.items()}
    said = [f"{words[name]} on {percent(statistics.fmean(own))}" for name, own in known.items() if own]
    return f"for comparison, half {', '.join(said)}"


def _recall(entries: Sequence[Row]) -> str:
    """Change in the rank of the true token at domain terms."""
    before, after, median_before, median_after = (
        statistics.fmean(entry[column] for entry in entries)
        for column in ("recall_10_before", "recall_10_after", "median_before", "median_after")
    )
    return (
        f" At domain terms ({entries[0]['tokens']} tokens) the true token is among the first 10 at {percent(before)} "
        f"of the positions before and {percent(after)} after, {amount(entries, RECALL, ' points', 1, 100)}; its "
        f"median rank is {median_before:g} before and {median_after:g} after."
    )
