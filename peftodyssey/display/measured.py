"""Cells of which a measure has numbers, in sentences: who a sentence is about, and why others have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from peftodyssey.display.result_text import Row, coordinates, method_name, seed_groups, selected_cells, text_name

IsMeasured = Callable[[Row], bool]


def has(column: str) -> IsMeasured:
    """A function: whether a row has a value in this column."""
    return lambda row: row.get(column) is not None


def measured_groups(rows: Iterable[Row], is_measured: IsMeasured) -> list[list[Row]]:
    """Selected cells that differ in their seed only, those that were measured."""
    groups = ([row for row in group if is_measured(row)] for group in seed_groups(rows))
    return [group for group in groups if group]


def subject(row: Row, rows: Iterable[Row]) -> str:
    """Method, text and, where they vary over `rows`, the other coordinates: `LoRA r=8 on notes (trunk-64M)`."""
    return f"{method_name(row)} on {text_name(row)}{coordinates(row, rows)}"


def unmeasured(rows: Sequence[Row], is_measured: IsMeasured, measure: str, or_else: str = "") -> str:
    """Why some selected cells have no numbers of `measure`; empty if all have. `or_else`: other reasons."""
    missing = [row for row in selected_cells(rows) if not is_measured(row)]
    if not missing:
        return ""
    cells, recipes = f"{len(missing)} cell{'s' * (len(missing) > 1)}", ", ".join(sorted({r["recipe"] for r in missing}))
    return f"Not measured for {cells}: `measure` of {recipes} does not contain `{measure}`{or_else}."
