"""Collects `wise_ft.parquet`: each cell at shares of its update, from the base to the adapted model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]
Compare = Callable[[Sequence[Mapping[str, Any]]], Row]
COLUMNS = {"nll": "nll_after", "delta_nll": "delta_nll", "delta_lo": "delta_lo", "delta_hi": "delta_hi"}
GENERAL = {
    "general_nll": "nll_after",
    "forgetting": "delta_nll",
    "forgetting_lo": "delta_lo",
    "forgetting_hi": "delta_hi",
}


def write(folder: Path, cells: Sequence[Mapping[str, Any]], compare: Compare) -> None:
    """Write the curves of the cells that have any; `compare` pools texts."""
    rows = [row for cell in cells if cell.get("wise") for row in _curve(folder, cell, compare)]
    parquet.write_rows(folder / layout.WISE_FT, rows, tables.WISE_FT)


def _curve(folder: Path, cell: Mapping[str, Any], compare: Compare) -> Iterator[Row]:
    scores = cell["scores"]
    texts = [scores["test"], scores["valid"], *scores["general"]]
    columns = {point["share"]: [point["test"], point["valid"], *point["general"]] for point in cell["wise"]}
    columns[0.0] = [text["quantised"] or text["before"] for text in texts]
    columns[1.0] = [text["after"] for text in texts]
    for share in sorted(columns):
        if any(manifest.read(folder / name) is None for name in columns[share]):
            continue
        test, valid, *general = ({**text, "after": name} for text, name in zip(texts, columns[share], strict=True))
        row = {"cell": cell["cell"], "recipe": cell["recipe"], "share": share}
        row |= {"valid_nll": compare([valid])["nll_after"], **_renamed(compare([test]), COLUMNS)}
        yield row | (_renamed(compare(general), GENERAL) if general else {})


def _renamed(numbers: Row, names: Mapping[str, str]) -> Row:
    return {name: numbers[column] for name, column in names.items()}
