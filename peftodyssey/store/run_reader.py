"""A complete or partial run as one object: its tables, per-token losses, SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import InputError, StoreError
from peftodyssey.store import layout, manifest, parquet, plans, table_record
from peftodyssey.store.query import query, texts
from peftodyssey.store.views import Views

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SHOWN_CELLS = 12  # in a message


@dataclass(frozen=True, repr=False)
class Run:
    """An output directory, opened for reading. `cells` are the plans' entries, each with its `status`."""

    folder: Path
    cells: tuple[dict[str, Any], ...]
    views: Views  # that `query` offers
    draw: Callable[[str | None], Mapping[str, Any]]  # every figure of the report by name, for a way of scoring

    def __repr__(self) -> str:
        """A few lines: where the run is, how far it is, and what can be called."""
        counts = Counter(cell["status"] for cell in self.cells)
        states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no cells"
        return (
            f"Run({str(self.folder)!r}): {states}\n"
            "  .results, .learning_curves    tables (pyarrow; .to_pandas())\n"
            "  .query(sql)                   SQL over all tables and tokens\n"
            "  .nll(label=..., lr=...)       losses of one cell, token by token\n"
            "  .figure(name)                 a figure of the report, as an Altair chart"
        )

    @property
    def results(self) -> pa.Table:
        """One row per cell; the columns are those of `results.parquet`."""
        return self._collected(layout.RESULTS)

    @property
    def learning_curves(self) -> pa.Table:
        """Losses during training: one row per cell, evaluation, corpus and split."""
        return self._collected(layout.LEARNING_CURVES)

    @property
    def scorings(self) -> dict[str, str]:
        """The ways in which cells are scored, the newest first; `open(folder, scoring=NAME)` opens another one."""
        return plans.scorings(self.folder)

    def _collected(self, name: str) -> pa.Table:
        scoring = self.views.scoring
        again = "" if scoring is None else f" --scoring {scoring}"
        next_step = f"run `peftodyssey report {self.folder}{again}`"
        return table_record.read(layout.tables_folder(self.folder, scoring), name, next_step)

    def query(self, sql: str) -> pa.Table:
        """The answer to one SELECT over this run."""
        return query([self.folder], sql, self.views)

    def figure(self, name: str) -> Any:
        """A figure of the report as an Altair chart, which a notebook shows; InputError lists the names there are."""
        drawn = self.draw(self.views.scoring)
        if name not in drawn:
            raise InputError(f"there is no figure {name!r}", f"figures: {', '.join(drawn) or 'none yet'}")
        return drawn[name]

    def nll(
        self, cell: str | None = None, split: str = "test", corpus: str | None = None, **coordinates: Any
    ) -> dict[str, np.ndarray]:
        """Losses of one cell, named by its hash (or its beginning) or by coordinates: `label="lora r=8", lr=3e-3`.

        `split` is test, valid or general; `corpus` names one of several general texts. Arrays `[rows]`: `before` and
        `after` (float32, nats; NaN where not scored), `document`, `position` and `token` (int32). If several learning
        rates match, the selected one is taken. Raises InputError where no cell or text, or more than one, matches.
        """
        score = self._score(self._cell(cell, coordinates), split, corpus)
        for key in ("index", "before", "after"):
            if manifest.read(self.folder / score[key]) is None:
                wrong = manifest.in_words(manifest.damage(self.folder / score[key]))
                state = f"is damaged: {wrong}" if wrong else "is not complete"
                raise StoreError(f"{score[key]} {state}", "run the recipe again: it makes what is missing")
        index = parquet.read(self.folder / score["index"] / layout.INDEX)
        columns = {name: index[name].to_numpy() for name in ("document", "position", "token")}
        before, _ = parquet.read_nll(self.folder / score["before"])
        after, _ = parquet.read_nll(self.folder / score["after"])
        return {"before": before, "after": after, **columns}

    def _score(self, cell: Mapping[str, Any], split: str, corpus: str | None) -> dict[str, Any]:
        scored = texts(cell)
        matching = [dict(s) for kind, name, s in scored if kind == split and corpus in (None, name)]
        if len(matching) != 1:
            wanted = split if corpus is None else f"{split} of {corpus}"
            names = ", ".join(f"{kind} of {name}" for kind, name, _ in scored)
            raise InputError(f"{len(matching)} texts of cell {cell['cell']} are {wanted!r}", f"there are: {names}")
        return matching[0]

    def _cell(self, prefix: str | None, coordinates: Mapping[str, Any]) -> dict[str, Any]:
        newest = {cell["cell"]: cell for cell in self.cells}  # of several ways of scoring a cell, the last
        if coordinates:
            row = one_row(self.results.to_pylist(), coordinates)
            return newest[row["cell"]]
        matching = [cell for name, cell in newest.items() if prefix and name.startswith(prefix)]
        if len(matching) != 1:
            names = ", ".join(cell["cell"] for cell in (matching or self.cells))
            raise InputError(f"{len(matching)} cells start with {prefix!r}", f"there are: {names}")
        return matching[0]


def one_row(rows: Iterable[Mapping[str, Any]], coordinates: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of results with these values; of several, the one whose learning rate is selected.

    Raises InputError with the values that each coordinate has, where none or several match.
    """
    rows = list(rows)
    if unknown := [key for key in coordinates if rows and key not in rows[0]]:
        raise InputError(f"{unknown[0]!r} is no column of the results", f"columns: {', '.join(rows[0])}")
    matching = [row for row in rows if all(is_value(row[key], value) for key, value in coordinates.items())]
    selected = [row for row in matching if row["selected"]]
    matching = selected if len(matching) > 1 and selected else matching
    if len(matching) != 1:
        wanted = ", ".join(f"{key}={value}" for key, value in coordinates.items())
        raise InputError(f"{len(matching)} cells are {wanted}", f"there are: {describe_cells(matching or rows)}")
    return matching[0]


def is_value(value: object, wanted: object) -> bool:
    """Whether a coordinate has a value that may be given as text: `lr=1e-3` is 0.001."""
    if str(value) == str(wanted):
        return True
    try:
        return isinstance(value, int | float) and float(value) == float(str(wanted))
    except ValueError:
        return False


def describe_cells(rows: Iterable[Mapping[str, Any]]) -> str:
    """Cells by the coordinates that distinguish them, with their hash; at most a dozen."""
    rows = list(rows)
    keys = [
        key for key in ("label", "domain", "model", "revision", "lr", "seed") if len({str(r[key]) for r in rows}) > 1
    ]
    shown = (", ".join(f"{key}={row[key]}" for key in keys or ["label"]) for row in rows)
    cells = [f"{text} (cell {row['cell']})" for text, row in zip(shown, rows, strict=True)]
    more = f"; and {len(cells) - SHOWN_CELLS} more" if len(cells) > SHOWN_CELLS else ""
    return "; ".join(cells[:SHOWN_CELLS]) + more


def no_figures(scoring: str | None) -> Mapping[str, Any]:
    """A run that is opened without its report has no figures."""
    return {}


def open_run(folder: str | Path, views: Views, draw: Callable[[str | None], Mapping[str, Any]] = no_figures) -> Run:
    """The run in `folder`; StoreError where there is no run."""
    folder = Path(folder)
    return Run(
        folder,
        tuple(
            {**cell, "status": manifest.status_record(folder / cell["folder"])["status"]}
            for cell in plans.cells(folder, views.scoring)
        ),
        views,
        draw,
    )
