"""Collects `transfer.parquet`: the change of each cell on every domain of its recipe.

Computed from the NLL columns of the finished cells whose recipe measures `transfer`. Columns that do not exist yet have
no row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.display.result_text import text_name
from peftodyssey.measures.transfer.table import TABLE
from peftodyssey.stats.degradation import compare
from peftodyssey.store import layout, manifest, parquet
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun, nll_column


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of the finished cells whose recipe measures transfer, in their order."""
    read = column_reader(run.folder)
    cells = run.done_with("transfer")
    rows = [_row(cell, paths, read(paths)) for cell in cells for paths in scored_texts(run.folder, cell)]
    return Collected({TABLE: rows})


@dataclass(frozen=True)
class Columns:
    """Two columns over one index: nats per token float64 [n], and document and bytes int [n] of each token."""

    before: np.ndarray
    after: np.ndarray
    document: np.ndarray
    token_bytes: np.ndarray


def column_reader(folder: Path) -> Callable[[Mapping[str, Any]], Columns]:
    """A function that reads a scored text; indexes and the base's columns, which are shared, are read once."""

    @functools.cache
    def index(name: str) -> tuple[np.ndarray, np.ndarray]:
        table = parquet.read(folder / name / layout.INDEX)
        return table["document"].to_numpy(), table["bytes"].to_numpy()

    base = functools.cache(lambda name: nll_column(folder / name))
    return lambda paths: Columns(base(paths["before"]), nll_column(folder / paths["after"]), *index(paths["index"]))


def scored_texts(folder: Path, cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recipe's texts on which `cell` has been scored, its own first."""
    own = {**cell["scores"]["test"], "name": _own_text(cell["coordinates"])}
    return [
        text
        for text in (own, *cell.get("texts", {}).get("transfer", ()))
        if all(manifest.read(folder / text[key]) is not None for key in ("index", "before", "after"))
    ]


def _own_text(coordinates: Mapping[str, Any]) -> str:
    """The name of the text adapted to as it is scored: with the policy `mismatch`, unchanged."""
    return text_name({**coordinates, "newline": None} if coordinates["newline"] == "mismatch" else coordinates)


def _row(cell: Mapping[str, Any], paths: Mapping[str, Any], columns: Columns) -> Row:
    change = compare(columns.before, columns.after, columns.document, columns.token_bytes)
    return {
        "cell": cell["cell"],
        "recipe": cell["recipe"],
        "trained_on": text_name(cell["coordinates"]),
        "scored_on": paths["name"],
        "in_domain": paths["index"] == cell["scores"]["test"]["index"],
        "tokens": change.tokens,
        "nll_before": change.nll_before,
        "nll_after": change.nll_after,
        "delta_nll": change.delta_nll,
        "delta_lo": change.delta_lo,
        "delta_hi": change.delta_hi,
    }
