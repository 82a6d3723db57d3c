"""Collects `tasks.parquet` from scored choices: accuracy before and after, by cell and task."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.measures.multiple_choice import compute as accuracy
from peftodyssey.measures.multiple_choice.table import CHOICES_FILE, TABLE
from peftodyssey.store import manifest, parquet
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun

RESULT_COLUMNS = (
    "task",
    "acc_before",
    "acc_after",
    "acc_delta",
    "acc_lo",
    "acc_hi",
    "acc_norm_before",
    "acc_norm_after",
)
ACCURACY = {
    "acc_before": "before",
    "acc_before_lo": "before_lower",
    "acc_before_hi": "before_upper",
    "acc_after": "after",
    "acc_after_lo": "after_lower",
    "acc_after_hi": "after_upper",
    "acc_delta": "delta",
    "acc_lo": "lower",
    "acc_hi": "upper",
    "acc_won": "won",
    "acc_lost": "lost",
    "acc_p": "p_value",
}
ACCURACY_PER_BYTE = {
    "acc_norm_before": "before",
    "acc_norm_after": "after",
    "acc_norm_delta": "delta",
    "acc_norm_lo": "lower",
    "acc_norm_hi": "upper",
}


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of `tasks.parquet`, and columns of the results."""
    by_cell = _rows(run)
    return Collected({TABLE: [row for rows in by_cell.values() for row in rows]}, _columns(by_cell))


def _rows(run: StoredRun) -> dict[int, list[Row]]:
    """The rows of `tasks.parquet`, by the number of their cell."""
    read = functools.cache(functools.partial(_read, run.folder))
    return {
        cell["number"]: [
            {"cell": cell["cell"], "recipe": cell["recipe"], **_row(task, read)}
            for task in tasks
            if all(run.is_complete(task[name]) for name in ("before", "after"))
        ]
        for cell, tasks in run.entries("multiple_choice")
    }


def _columns(by_cell: Mapping[int, Sequence[Row]]) -> dict[int, Row]:
    """Columns of the rows of results; cells with several tasks have them in the table only."""
    return {
        number: {name: scored[0][name] for name in RESULT_COLUMNS}
        for number, scored in by_cell.items()
        if len(scored) == 1
    }


def _read(folder: Path, name: str) -> Row:
    """Columns of a scored task, and whether each prompt is answered correctly: by log-likelihood, and per byte."""
    table = parquet.read(folder / name / CHOICES_FILE)
    columns: dict[str, Any] = {column: table[column].to_numpy() for column in table.column_names}
    per_byte = accuracy.per_byte(columns["loglik_nats"], columns["bytes"])
    for key, value in (("correct", columns["loglik_nats"]), ("correct_per_byte", per_byte)):
        columns[key] = accuracy.correct_answers(value, columns["example"], columns["is_answer"])
    columns["truncated"] = (manifest.read(folder / name) or {})["facts"]["truncated"]
    return columns


def _row(task: Mapping[str, Any], read: Callable[[str], Row]) -> Row:
    before, after = read(task["before"]), read(task["after"])
    plain, per_byte = (accuracy.paired_accuracy(before[key], after[key]) for key in ("correct", "correct_per_byte"))
    return {
        "task": task["name"],
        "examples": plain.examples,
        "chance": accuracy.chance_accuracy(before["example"]),
        "acc_quantised": float(read(task["quantised"])["correct"].mean()) if task.get("quantised") else None,
        "truncated": before["truncated"],
        **{column: getattr(plain, name) for column, name in ACCURACY.items()},
        **{column: getattr(per_byte, name) for column, name in ACCURACY_PER_BYTE.items()},
    }
