"""The effect of training without line breaks and scoring with them, on newlines and on all other tokens.

Cells whose policy is `mismatch` are compared, token by token on the same test text, with the cells that differ in
nothing but having trained with line breaks; where a recipe has none, with the base.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.report import result_text
from peftodyssey.report.collect_tokens import column
from peftodyssey.report.result_text import UNIT, Row, signed
from peftodyssey.report.token_text import Text
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap

NEWLINE = TOKEN_CLASSES.index("newline")


@dataclass(frozen=True)
class Mismatch:
    """One mismatched cell against its reference on the same tokens; differences in nats per token, positive: worse."""

    row: Row
    matched: Row | None  # the cell that trained with line breaks; None: the base is the reference
    newline: Interval  # over the newline tokens alone
    rest: Interval  # over all others
    whole: Interval
    newline_share: float  # of the tokens
    part: float  # of `whole` that lies on newlines, nats per token of the text


def mismatches(
    folder: Path, rows: Sequence[Row], cells: Mapping[tuple[str, str], Row], text_of: Callable[[str], Text]
) -> list[Mismatch]:
    """Every selected cell of a run with the policy `mismatch`; `cells` are the plan's entries by hash and recipe."""
    picked = result_text.selected_cells(rows)
    found = []
    for row in picked:
        if row["newline"] == "mismatch":
            paths = cells[row["cell"], row["recipe"]]["scores"]["test"]
            matched = next((other for other in picked if _is_match(row, other, cells, paths["index"])), None)
            reference = (
                cells[matched["cell"], matched["recipe"]]["scores"]["test"]["after"] if matched else paths["before"]
            )
            delta = column(folder / paths["after"]) - column(folder / reference)
            found.append(_compared(row, matched, delta, text_of(paths["index"])))
    return found


def _is_match(row: Row, other: Row, cells: Mapping[tuple[str, str], Row], index: str) -> bool:
    alike = ("recipe", "model", "revision", "domain", "label", "seed", "objective", "context")
    scored = cells[other["cell"], other["recipe"]]["scores"]["test"]["index"]
    return other["newline"] == "keep" and scored == index and all(other[name] == row[name] for name in alike)


def _compared(row: Row, matched: Row | None, delta: np.ndarray, text: Text) -> Mismatch:
    scored = ~np.isnan(delta)
    newline = (text.token_class == NEWLINE) & scored
    over_newlines, over_rest, whole = (
        paired_bootstrap(delta[rows], text.document[rows]) for rows in (newline, scored & ~newline, scored)
    )
    share = float(newline.sum() / max(1, scored.sum()))
    part = over_newlines.estimate * share if newline.any() else 0.0
    return Mismatch(row, matched, over_newlines, over_rest, whole, share, part)


def statements(found: Sequence[Mismatch], rows: Sequence[Row]) -> list[str]:
    """One sentence per method, text and base that has the factor; seeds as their mean and range."""
    groups: dict[tuple[str, ...], list[Mismatch]] = {}
    for item in found:
        groups.setdefault((*result_text.setting(item.row), item.row["label"]), []).append(item)
    return [_statement(group, rows) for group in groups.values()]


def _statement(group: Sequence[Mismatch], rows: Sequence[Row]) -> str:
    first = group[0].row
    said = (
        f"{result_text.method_name(first)} on {first['domain']}{result_text.where(first, rows)}, trained "
        f"without line breaks and scored with them, "
    )
    said += f"changed test NLL by {result_text.amount([item.row for item in group], 'delta_nll', result_text.delta)}"
    matched = [item.matched for item in group if item.matched]
    if matched:
        said += f"; trained with them, by {result_text.amount(matched, 'delta_nll', result_text.delta)}"
    share = statistics.fmean(item.newline_share for item in group)
    said += (
        f". Against {'that training' if matched else 'the base'} a newline ({100 * share:.2g} % of the tokens) costs "
    )
    said += (
        f"{_over_seeds([item.newline for item in group])} and any other token "
        f"{_over_seeds([item.rest for item in group])}"
    )
    whole, part = (statistics.fmean(values) for values in ([i.whole.estimate for i in group], [i.part for i in group]))
    if whole > 0 and part > 0:
        said += f"; newlines make {100 * part / whole:.0f} % of the difference of {signed(whole)} {UNIT}"
    return f"{said}."


def _over_seeds(found: Sequence[Interval]) -> str:
    """A difference with its interval, or the mean and range over seeds."""
    values = [item.estimate for item in found]
    if len(found) > 1:
        return f"{signed(statistics.fmean(values))} nats ({signed(min(values))} to {signed(max(values))})"
    ends = f" [{signed(found[0].lower)}, {signed(found[0].upper)}]" if found[0].lower is not None else " [no interval]"
    return f"{signed(values[0])} nats{ends}"
