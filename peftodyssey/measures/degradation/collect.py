"""Collects the change on the text adapted to: columns of the rows of results, and the sums over clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftodyssey.measures.degradation import cluster_sums
from peftodyssey.measures.degradation.table import CLUSTERS_TABLE
from peftodyssey.stats.degradation import compare_texts, difference, finite, mean_nats
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """NLL, perplexity and change on test, and NLL on validation, of every finished cell; sums over clusters."""
    columns = {cell["number"]: _of_cell(cell, run) for cell in run.done}
    return Collected({CLUSTERS_TABLE: cluster_sums.rows(run)}, columns)


def _of_cell(cell: Cell, run: StoredRun) -> Row:
    test, valid = cell["scores"]["test"], cell["scores"].get("valid")
    change = compare_texts([test], run.read)
    quantised = _mean(test["quantised"], run) if test.get("quantised") else None
    return {
        "nll_before": change.nll_before,
        "nll_quantised": quantised,
        "nll_after": change.nll_after,
        "valid_nll_before": _mean(valid["before"], run) if valid else None,
        "valid_nll_after": _mean(valid["after"], run) if valid else None,
        "ppl_before": change.ppl_before,
        "ppl_after": change.ppl_after,
        "delta_nll": change.delta_nll,
        "delta_lo": change.delta_lo,
        "delta_hi": change.delta_hi,
        "delta_storage": difference(quantised, change.nll_before),
        "bpb_before": change.bpb_before,
        "bpb_after": change.bpb_after,
        "test_tokens": change.tokens,
        "test_documents": change.documents,
        "reason": change.note,
    }


def _mean(name: str, run: StoredRun) -> float | None:
    return finite(mean_nats(run.read(name, "nll_nats")))
