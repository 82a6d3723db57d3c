"""Collects the change on general text: columns of the rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from peftodyssey.stats.degradation import compare_texts, difference, finite, mean_nats
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """NLL and change on the general texts, which are pooled, of every finished cell that has any."""
    return Collected(columns={c["number"]: _of_cell(c, run) for c in run.done if c["scores"].get("general")})


def _of_cell(cell: Cell, run: StoredRun) -> Row:
    texts = cell["scores"]["general"]
    change = compare_texts(texts, run.read)
    quantised = _quantised(texts, run)
    return {
        "general_nll_before": change.nll_before,
        "general_nll_quantised": quantised,
        "general_nll_after": change.nll_after,
        "forgetting": change.delta_nll,
        "forgetting_lo": change.delta_lo,
        "forgetting_hi": change.delta_hi,
        "general_documents": change.documents,
        "forgetting_storage": difference(quantised, change.nll_before),
        "reason": change.note and f"general text: {change.note}",
    }


def _quantised(texts: Sequence[Cell], run: StoredRun) -> float | None:
    """NLL of the quantised base on the general texts, pooled; None where the base is not quantised."""
    if not all(text.get("quantised") for text in texts):
        return None
    return finite(mean_nats(np.concatenate([run.read(text["quantised"], "nll_nats") for text in texts])))
