"""Collects the change on general text: columns of the rows of results."""

from __future__ import annotations

from typing import Any

from peftodyssey.stats.degradation import compare_texts
from peftodyssey.store.stored_run import Cell, StoredRun


def columns(run: StoredRun) -> dict[int, dict[str, Any]]:
    """NLL and change on the general texts, which are pooled, of every finished cell that has any."""
    return {cell["number"]: _of_cell(cell, run) for cell in run.done if cell["scores"].get("general")}


def _of_cell(cell: Cell, run: StoredRun) -> dict[str, Any]:
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
