"""Collects `predictors.parquet` from the rows of results; a predictor that was not measured has no rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.predictors.compute import forecasts, spearman
from peftodyssey.measures.predictors.table import TABLE
from peftodyssey.store import layout
from peftodyssey.store.collected import Collected
from peftodyssey.store.stored_run import StoredRun

Row = Mapping[str, Any]
SETTING = ("recipe", "model", "revision", "domain", "newline", "objective", "context", "score_tokens")


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _learning(row: Row) -> float | None:
    return None if row.get("delta_nll") is None else (row.get("delta_storage") or 0.0) - row["delta_nll"]


def _directional_sharpness(row: Row) -> float | None:
    curvature, norm = row.get("forgetting_curvature"), row.get("update_norm_relative")
    return None if curvature is None or not norm else curvature / norm**2


def _second_order(row: Row) -> float | None:
    slope, curvature = row.get("forgetting_slope"), row.get("forgetting_curvature")
    return None if slope is None or curvature is None else slope + curvature


# Each predictor, and whether it is itself measured on the general text.
PREDICTORS: dict[str, tuple[Callable[[Row], float | None], bool]] = {
    "learning": (_learning, False),
    "update_norm_relative": (_column("update_norm_relative"), False),
    "effective_rank_mean": (_column("effective_rank_mean"), False),
    "intruder_dimensions": (_column("intruder_dimensions"), False),
    "kl_target": (_column("kl_target"), False),
    "changed_guesses_target": (_column("changed_guesses_target"), False),
    "directional_sharpness": (_directional_sharpness, True),
    "kl_general": (_column("kl_general"), True),
    "changed_guesses_general": (_column("changed_guesses_general"), True),
    "second_order": (_second_order, True),
}


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of every text and base whose recipe asks for them."""
    asked = {(cell["cell"], cell["recipe"]) for cell in run.done_with("predictors")}
    results = [row for row in tables[layout.RESULTS] if (row["cell"], row["recipe"]) in asked]
    return Collected({TABLE: rows(results)})


def rows(results: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of every setting, from rows of results; all rates, seeds and budgets of a method are its cells."""
    known = [row for row in results if row.get("forgetting") is not None]
    settings = grouped(known, columns_of(*SETTING)).values()
    return [row for own in settings for name in PREDICTORS for row in _of_predictor(name, own)]


def _of_predictor(name: str, cells: Sequence[Row]) -> Iterator[dict[str, Any]]:
    read, on_general = PREDICTORS[name]
    pairs = [(value, row) for row in cells if (value := read(row)) is not None]
    x = [value for value, _ in pairs]
    y = [row["forgetting"] - (row.get("forgetting_storage") or 0.0) for _, row in pairs]
    if not pairs or (correlation := spearman(x, y)) is None:
        return
    first = cells[0]
    for forecast in forecasts(x, y, [str(row["method"]) for _, row in pairs]):
        yield {
            **{column: first.get(column) for column in ("recipe", "model", "revision", "domain")},
            "predictor": name,
            "on_general": on_general,
            "left_out": forecast.left_out,
            "cells": forecast.cells,
            "spearman": correlation,
            "skill": forecast.skill,
            "rmse": forecast.rmse,
        }
