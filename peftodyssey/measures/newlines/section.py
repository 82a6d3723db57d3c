"""Section: effect of training without line breaks and scoring with them (newline policy `mismatch`).

These cells are compared, token by token on the same test text, with the cells that differ only in having been trained
with line breaks; where a recipe has none, with the base.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.display.result_text import (
    DELTA,
    UNIT,
    Row,
    amount,
    columns_of,
    coordinates,
    grouped,
    method_name,
    seed_key,
    selected_cells,
    signed,
)
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.display.token_text import Text, text_reader
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap
from peftodyssey.store.stored_run import nll_column

NEWLINE = TOKEN_CLASSES.index("newline")
INTERVAL = ("estimate", "lower", "upper")
ALIKE = ("recipe", "model", "revision", "domain", "label", "seed", "objective", "context")


@dataclass(frozen=True)
class Mismatch:
    """One mismatched cell against its reference on the same tokens; differences in nats per token, positive: worse."""

    row: Row
    matched: Row | None  # the cell that was trained with line breaks; None: the base is the reference
    newline: Interval  # over the newline tokens
    rest: Interval  # over all other tokens
    whole: Interval
    newline_share: float  # of the tokens

    @property
    def newline_part(self) -> float:
        """The part of `whole` that is due to newlines, nats per token of the text."""
        return self.newline.estimate * self.newline_share if self.newline_share else 0.0


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, from every run."""
    found = [
        one
        for folder in sources.runs
        for one in mismatches(folder, sources.rows_of(folder), sources.cells_of(folder), text_reader(folder))
    ]
    return [section(found, sources.rows)]


def mismatches(
    folder: Path, rows: Sequence[Row], cells: Mapping[tuple[str, str], Row], text_of: Callable[[str], Text]
) -> list[Mismatch]:
    """Every selected cell of a run with the policy `mismatch`; `cells` are the plan's entries by hash and recipe."""

    def scored(row: Row) -> Mapping[str, str]:
        paths: Mapping[str, str] = cells[row["cell"], row["recipe"]]["scores"]["test"]
        return paths

    def key(row: Row) -> tuple[object, ...]:
        return (*columns_of(*ALIKE)(row), scored(row)["index"])

    selected = selected_cells(rows)
    trained_with = {key(row): row for row in reversed(selected) if row["newline"] == "keep"}
    found = []
    for row in selected:
        if row["newline"] == "mismatch":
            matched, paths = trained_with.get(key(row)), scored(row)
            reference = scored(matched)["after"] if matched else paths["before"]
            delta = nll_column(folder / paths["after"]) - nll_column(folder / reference)
            found.append(_mismatch(row, matched, delta, text_of(paths["index"])))
    return found


def _mismatch(row: Row, matched: Row | None, delta: np.ndarray, text: Text) -> Mismatch:
    scored = ~np.isnan(delta)
    newline = (text.token_class == NEWLINE) & scored
    of_newlines, of_rest, whole = (
        paired_bootstrap(delta[where], text.document[where]) for where in (newline, scored & ~newline, scored)
    )
    return Mismatch(row, matched, of_newlines, of_rest, whole, float(newline.sum() / max(1, scored.sum())))


def section(found: Sequence[Mismatch], rows: Sequence[Row]) -> Section | None:
    """One sentence per method, text and base; None if the recipe has no such cells."""
    groups = grouped(found, lambda item: seed_key(item.row)).values()
    said = [_sentence(group, rows) for group in groups]
    return Section("newlines", "What did a mismatch of line breaks do?", said) if said else None


def _sentence(group: Sequence[Mismatch], rows: Sequence[Row]) -> str:
    first = group[0].row
    sentence = (
        f"{method_name(first)} on {first['domain']}{coordinates(first, rows)}, trained without line breaks and scored "
        f"with them, changed test NLL by {amount([item.row for item in group], DELTA)}"
    )
    matched = [item.matched for item in group if item.matched]
    if matched:
        sentence += f"; trained with line breaks, by {amount(matched, DELTA)}"
    share = statistics.fmean(item.newline_share for item in group)
    newline = amount([asdict(item.newline) for item in group], INTERVAL, " nats")
    rest = amount([asdict(item.rest) for item in group], INTERVAL, " nats")
    sentence += (
        f". Compared with {'that training' if matched else 'the base'}, a newline ({100 * share:.2g} % of the tokens) "
        f"costs {newline} and any other token {rest}"
    )
    whole = statistics.fmean(item.whole.estimate for item in group)
    part = statistics.fmean(item.newline_part for item in group)
    if whole > 0 and part > 0:
        sentence += f"; newlines account for {100 * part / whole:.0f} % of the difference of {signed(whole)} {UNIT}"
    return f"{sentence}."
