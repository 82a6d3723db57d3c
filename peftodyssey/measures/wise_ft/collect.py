"""Collects `wise_ft.parquet`: each cell at shares of its update, from the base to the adapted model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftodyssey.measures.wise_ft.table import TABLE
from peftodyssey.stats.degradation import compare_texts
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import Cell, StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The curves of the cells that have any."""
    return Collected({TABLE: [row for cell, shares in run.entries("wise_ft") for row in _curve(run, cell, shares)]})


def _curve(run: StoredRun, cell: Cell, shares: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    scores = cell["scores"]
    texts = [scores["test"], scores["valid"], *scores["general"]]
    columns = {point["share"]: [point["test"], point["valid"], *point["general"]] for point in shares}
    columns[0.0] = [text["quantised"] or text["before"] for text in texts]
    columns[1.0] = [text["after"] for text in texts]
    for share in sorted(columns):
        if not all(run.is_complete(name) for name in columns[share]):
            continue
        test, valid, *general = ({**text, "after": name} for text, name in zip(texts, columns[share], strict=True))
        on_test, on_valid = compare_texts([test], run.read), compare_texts([valid], run.read)
        row = {
            "cell": cell["cell"],
            "recipe": cell["recipe"],
            "share": share,
            "valid_nll": on_valid.nll_after,
            "nll": on_test.nll_after,
            "delta_nll": on_test.delta_nll,
            "delta_lo": on_test.delta_lo,
            "delta_hi": on_test.delta_hi,
        }
        if general:
            on_general = compare_texts(general, run.read)
            row |= {
                "general_nll": on_general.nll_after,
                "forgetting": on_general.delta_nll,
                "forgetting_lo": on_general.delta_lo,
                "forgetting_hi": on_general.delta_hi,
            }
        yield row
