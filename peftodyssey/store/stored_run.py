"""An output directory as the measures read it: the cells of its plans, and columns of indexes and scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.store import layout, manifest, parquet, plans, tables

# The cell's line of a plan file with `recipe` and `measure` of its plan, and its `number` among the cells of the run:
# 0, 1, ... in the order of `StoredRun.cells`, by which a measure returns its columns.
# `scores` holds `test`, `valid` (or None) and a list `general`. Each of these texts names the folders `index` (its
# tokens, in the row order of its columns), `before` (the base), `quantised` (the quantised base without an adapter, or
# None) and `after` (the trained cell); a general text has its `name` as well.
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """The cells of the newest plans; `done` are those whose own columns are complete."""

    folder: Path
    scoring: str | None  # None: the newest
    cells: tuple[Cell, ...]
    done: tuple[Cell, ...]
    read: Callable[[str, str], np.ndarray]  # (folder, column) -> its values; a score has nll_nats and rank

    def entries(self, measure: str) -> list[tuple[Cell, Any]]:
        """The cells of which the plan says something for a measure, and what it says."""
        return _entries(self.cells, measure)

    def done_entries(self, measure: str) -> list[tuple[Cell, Any]]:
        """The same of the cells that are done."""
        return _entries(self.done, measure)

    def done_with(self, measure: str) -> list[Cell]:
        """The cells that are done and whose recipe names a measure."""
        return [cell for cell in self.done if measure in cell["measure"]]

    def is_complete(self, name: str) -> bool:
        """Whether a folder below the run is whole."""
        return manifest.read(self.folder / name) is not None


def stored_run(folder: Path, is_done: Callable[[Cell], bool], scoring: str | None = None) -> StoredRun:
    """The run in `folder`, each column read once; StoreError where it is no output directory, or has no `scoring`."""
    cells = tuple({**cell, "number": number} for number, cell in enumerate(plans.cells(folder, scoring)))
    done = tuple(cell for cell in cells if is_done(cell))
    return StoredRun(folder, scoring, cells, done, functools.cache(functools.partial(_column, folder)))


def _entries(cells: tuple[Cell, ...], measure: str) -> list[tuple[Cell, Any]]:
    return [(cell, cell["measures"][measure]) for cell in cells if measure in cell.get("measures", {})]


def _column(folder: Path, name: str, column: str) -> np.ndarray:
    """A column of a score (`nll_nats` as float64), or of an index."""
    if column in tables.NLL:
        nll_nats, rank = parquet.read_nll(folder / name)
        return nll_nats.astype(np.float64) if column == "nll_nats" else rank
    return parquet.read(folder / name / layout.INDEX)[column].to_numpy()


def nll_column(folder: Path) -> np.ndarray:
    """The NLL of one scored column, float64 [rows] nats; NaN where not scored."""
    return parquet.read_nll(folder)[0].astype(np.float64)


def document_clusters(run: StoredRun, index: str) -> np.ndarray:
    """A number for the cluster of each document, int [documents]; indexes of earlier versions have a cluster each."""
    documents = parquet.read(run.folder / index / layout.DOCUMENTS)
    if "cluster" not in documents.column_names:
        return np.arange(documents.num_rows)
    _, numbers = np.unique(np.array(documents["cluster"].to_pylist(), dtype=str), return_inverse=True)
    return np.asarray(numbers)
