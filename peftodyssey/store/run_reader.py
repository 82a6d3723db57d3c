"""A finished or half-finished run as one object: tables, per-token evidence, SQL. Called by `peftodyssey.open`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import InputError, StoreError
from peftodyssey.store import layout, manifest, parquet, plans
from peftodyssey.store.query import query, texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Run:
    """An output directory, opened for reading. `cells` are the plans' entries, each with its `status`."""

    folder: Path
    cells: tuple[dict[str, Any], ...]

    @property
    def results(self) -> pa.Table:
        """One row per cell; the columns are those of `results.parquet`."""
        return _collected(self.folder, layout.RESULTS)

    @property
    def points(self) -> pa.Table:
        """The learning paths: one row per cell, tokens seen, corpus and split."""
        return _collected(self.folder, layout.LEARNING_CURVES)

    def query(self, sql: str | None = None) -> pa.Table:
        """The answer to one SELECT over this run; without SQL, the views and their columns."""
        return query([self.folder], sql)

    def nll(self, cell: str, split: str = "test", corpus: str | None = None) -> dict[str, np.ndarray]:
        """Evidence of one cell, by its hash or the start of it.

        `split` is test, valid or general; `corpus` names one of several general texts. Arrays `[rows]`: `before` and
        `after` (float32, nats; NaN where not scored), `document`, `position` and `token` (int32).
        Raises InputError where nothing, or more than one thing, answers to the names.
        """
        score = self._score(cell, split, corpus)
        for key in ("index", "before", "after"):
            if manifest.read(self.folder / score[key]) is None:
                raise StoreError(f"{score[key]} is not finished", "run the recipe again, it goes on where it stopped")
        index = parquet.read(self.folder / score["index"] / layout.INDEX)
        columns = {name: index[name].to_numpy() for name in ("document", "position", "token")}
        before, _ = parquet.read_nll(self.folder / score["before"])
        after, _ = parquet.read_nll(self.folder / score["after"])
        return {"before": before, "after": after, **columns}

    def _score(self, cell: str, split: str, corpus: str | None) -> dict[str, Any]:
        scored = texts(self._cell(cell))
        found = [dict(s) for kind, name, s in scored if kind == split and corpus in (None, name)]
        if len(found) != 1:
            wanted = split if corpus is None else f"{split} of {corpus}"
            names = ", ".join(f"{kind} of {name}" for kind, name, _ in scored)
            raise InputError(f"{len(found)} texts of cell {cell} are {wanted!r}", f"there are: {names}")
        return found[0]

    def _cell(self, prefix: str) -> dict[str, Any]:
        newest = {cell["cell"]: cell for cell in self.cells}.values()  # of several ways of scoring a cell, the last
        found = [cell for cell in newest if prefix and cell["cell"].startswith(prefix)]
        if len(found) != 1:
            names = ", ".join(cell["cell"] for cell in (found or self.cells))
            raise InputError(f"{len(found)} cells start with {prefix!r}", f"there are: {names}")
        return found[0]


def open_run(folder: str | Path) -> Run:
    """The run in `folder`; StoreError where no run lies there."""
    folder = Path(folder)
    return Run(
        folder,
        tuple(
            {**cell, "status": manifest.status_record(folder / cell["folder"])["status"]}
            for cell in plans.cells(folder)
        ),
    )


def _collected(folder: Path, name: str) -> pa.Table:
    if not (folder / name).is_file():
        raise StoreError(f"{folder} holds no {name}", f"run `peftodyssey report {folder}` first")
    return parquet.read(folder / name)
