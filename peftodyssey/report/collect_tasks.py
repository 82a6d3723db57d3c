"""`tasks.parquet` from the scored choices: accuracy before and after, by cell and task."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.stats import accuracy
from peftodyssey.store import layout, manifest, parquet, tables

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
OF_RESULTS = ("task", "acc_before", "acc_after", "acc_delta", "acc_lo", "acc_hi", "acc_norm_before", "acc_norm_after")


def write(folder: Path, cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Row]:
    """Write the table for `cells`, entries of plans; returns what `results.parquet` shows, by (cell, recipe).

    That is the row of a cell with one task; one with several has them in the table alone.
    """
    read = functools.cache(functools.partial(_read, folder))
    rows: list[Row] = []
    shown: dict[tuple[str, str], Row] = {}
    for cell in cells:
        own = [
            {"cell": cell["cell"], "recipe": cell["recipe"], **_row(asked, read)}
            for asked in cell.get("tasks", ())
            if all(manifest.read(folder / asked[name]) is not None for name in ("before", "after"))
        ]
        rows += own
        if len(own) == 1:
            shown[cell["cell"], cell["recipe"]] = {name: own[0][name] for name in OF_RESULTS}
    parquet.write_rows(folder / layout.TASKS, rows, tables.TASKS)
    return shown


def _read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of a scored task, and whether each prompt is answered rightly: as summed, and per byte."""
    table = parquet.read(folder / name / layout.CHOICES)
    found = {column: table[column].to_numpy() for column in table.column_names}
    by_byte = accuracy.per_byte(found["loglik_nats"], found["bytes"])
    for key, value in (("right", found["loglik_nats"]), ("right_norm", by_byte)):
        found[key] = accuracy.correct_answers(value, found["example"], found["is_answer"])
    found["truncated"] = (manifest.read(folder / name) or {})["facts"]["truncated"]
    return found


def _row(asked: Mapping[str, Any], read: Any) -> Row:
    before, after = read(asked["before"]), read(asked["after"])
    plain = accuracy.paired_accuracy(before["right"], after["right"])
    norm = accuracy.paired_accuracy(before["right_norm"], after["right_norm"])
    return {
        "task": asked["name"],
        "examples": plain.examples,
        "chance": accuracy.chance_accuracy(before["example"]),
        "acc_before": plain.before,
        "acc_before_lo": plain.before_lower,
        "acc_before_hi": plain.before_upper,
        "acc_quantised": float(read(asked["quantised"])["right"].mean()) if asked.get("quantised") else None,
        "acc_after": plain.after,
        "acc_after_lo": plain.after_lower,
        "acc_after_hi": plain.after_upper,
        "acc_delta": plain.delta,
        "acc_lo": plain.lower,
        "acc_hi": plain.upper,
        "acc_won": plain.won,
        "acc_lost": plain.lost,
        "acc_p": plain.p_value,
        "acc_norm_before": norm.before,
        "acc_norm_after": norm.after,
        "acc_norm_delta": norm.delta,
        "acc_norm_lo": norm.lower,
        "acc_norm_hi": norm.upper,
        "truncated": before["truncated"],
    }
