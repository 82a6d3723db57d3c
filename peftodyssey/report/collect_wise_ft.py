"""`wise_ft.parquet`: each cell at shares of its update, from the base to the adapted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.store import manifest

Row = dict[str, Any]
Compared = Callable[[Sequence[Mapping[str, Any]]], Row]
COLUMNS = {"nll_after": "nll", "delta_nll": "delta_nll", "delta_lo": "delta_lo", "delta_hi": "delta_hi"}
GENERAL = {
    "nll_after": "general_nll",
    "delta_nll": "forgetting",
    "delta_lo": "forgetting_lo",
    "delta_hi": "forgetting_hi",
}


def rows(folder: Path, cells: Sequence[Mapping[str, Any]], compared: Compared) -> list[Row]:
    """The curves of the cells that have any, the base and the adapted model included; `compared` pools texts."""
    return [row for cell in cells if cell.get("wise") for row in _curve(folder, cell, compared)]


def _curve(folder: Path, cell: Mapping[str, Any], compared: Compared) -> list[Row]:
    scores = cell["scores"]
    texts = [scores["test"], scores["valid"], *scores["general"]]
    ends = {0.0: [text["quantised"] or text["before"] for text in texts], 1.0: [text["after"] for text in texts]}
    between = {point["share"]: [point["test"], point["valid"], *point["general"]] for point in cell["wise"]}
    curve = {**between, **ends}
    return [
        _row(cell, share, texts, curve[share], compared)
        for share in sorted(curve)
        if all(manifest.read(folder / name) is not None for name in curve[share])
    ]


def _row(
    cell: Mapping[str, Any],
    share: float,
    texts: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    compared: Compared,
) -> Row:
    test, valid, *general = ({**text, "after": column} for text, column in zip(texts, columns, strict=True))
    row = {"cell": cell["cell"], "recipe": cell["recipe"], "share": share, "valid_nll": compared([valid])["nll_after"]}
    row |= _named(compared([test]), COLUMNS)
    return row | (_named(compared(general), GENERAL) if general else {})


def _named(found: Row, names: Mapping[str, str]) -> Row:
    return {name: found[column] for column, name in names.items()}
