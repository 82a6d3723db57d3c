"""Collects the change on general text: columns of the rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftodyssey.stats.degradation import compare_texts
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """NLL and change on the general texts, which are pooled, of every finished cell that has any."""
    return Collected(columns={c["number"]: _of_cell(c, run) for c in run.done if c["scores"].get("general")})


def _of_cell(cell: Cell, run: StoredRun) -> Row:
    change = compare_texts(cell["scores"]["general"], run.read)
    return {
        "general_nll_before": change.nll_before,
        "general_nll_after": change.nll_after,
        "forgetting": change.delta_nll,
        "forgetting_lo": change.delta_lo,
        "forgetting_hi": change.delta_hi,
        "general_documents": change.documents,
        "reason": change.note and f"general text: {change.note}",
    }
