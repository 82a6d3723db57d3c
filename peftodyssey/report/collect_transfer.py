"""`transfer.parquet`: the change by each cell on every domain of its recipe.

Computed again from the NLL columns of the finished cells whose recipe measures `transfer`; a column that is not there
yet is no row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.report import result_text
from peftodyssey.report.collect_tokens import column
from peftodyssey.stats import degradation
from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of `cells`, entries of plans, in their order."""
    changes = reader(folder)
    rows = [_row(cell, paths, changes(paths)) for cell in cells for paths in scored(folder, cell)]
    parquet.write_rows(folder / layout.TRANSFER, rows, tables.TRANSFER)


@dataclass(frozen=True)
class Columns:
    """Two columns over one index, float64[n] nats per token, with the document int[n] and the bytes int[n] of each
    token.
    """

    before: np.ndarray
    after: np.ndarray
    document: np.ndarray
    token_bytes: np.ndarray


def reader(folder: Path) -> Callable[[Mapping[str, Any]], Columns]:
    """Reads what the paths of a scored text name; indexes and the base's columns are kept, they are shared."""

    @functools.cache
    def index(name: str) -> tuple[np.ndarray, np.ndarray]:
        table = parquet.read(folder / name / layout.INDEX)
        return table["document"].to_numpy(), table["bytes"].to_numpy()

    base = functools.cache(lambda name: column(folder / name))
    return lambda paths: Columns(base(paths["before"]), column(folder / paths["after"]), *index(paths["index"]))


def scored(folder: Path, cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The texts of the recipe on which `cell` is scored, its own first, as far as their columns are whole."""
    own = {**cell["scores"]["test"], "name": own_name(cell["coordinates"])}
    texts = [own, *cell.get("transfer", ())]
    return [
        text
        for text in texts
        if all(manifest.read(folder / text[key]) is not None for key in ("index", "before", "after"))
    ]


def own_name(coordinates: Mapping[str, Any]) -> str:
    """The text adapted to as a text that is scored: a mismatch is scored as it stands."""
    return result_text.text_name(
        {**coordinates, "newline": None} if coordinates["newline"] == "mismatch" else coordinates
    )


def _row(cell: Mapping[str, Any], paths: Mapping[str, Any], found: Columns) -> Row:
    numbers = degradation.compare(found.before, found.after, found.document, found.token_bytes)
    kept = {name: numbers[name] for name in ("tokens", "nll_before", "nll_after", "delta_nll", "delta_lo", "delta_hi")}
    return {
        "cell": cell["cell"],
        "recipe": cell["recipe"],
        "trained_on": result_text.text_name(cell["coordinates"]),
        "scored_on": paths["name"],
        "in_domain": paths["index"] == cell["scores"]["test"]["index"],
        **{
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in kept.items()
        },
    }
