"""The learning rates of a search (`tune: auto`): those of its first round by method, width and rank, and its cells.

A search is for one base, text, method and rank, with all seeds. Each of its rounds is a plan with explicit rates: the
first has three around the rate that published sweeps find, every later one adds one (`execution.lr_search`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peftodyssey.plan.plan_file import group_of
from peftodyssey.plan.sources import Sources
from peftodyssey.plan.tasks import CellTask
from peftodyssey.recipe import grid
from peftodyssey.recipe.cell import Cell, MethodSpec
from peftodyssey.recipe.lr_scale import rate_of, step_of
from peftodyssey.recipe.method_grid import source_of
from peftodyssey.recipe.schema import Recipe

# Of full fine-tuning, by width: 5e-5 at 2,000, falling with its power of 0.775; adapters have ten times as much ("LoRA
# Without Regret" and the rates that Tinker publishes, Thinking Machines 2025). IA3's scales start at 1.
BASE_LR, BASE_WIDTH, WIDTH_POWER = 5e-5, 2000, 0.775
TIMES_FULL = {"full": 1.0, "last_layers": 1.0, "lora": 10.0, "qlora": 10.0, "bitfit": 10.0, "peft": 10.0, "ia3": 100.0}
BASE_SCALE, BASE_RANK = 2.0, 16  # of LoRA there: alpha 32 at rank 16


def first_rates(method: MethodSpec, width: int) -> tuple[float, float, float]:
    """The rates of a search's first round on a base of this width, ascending, on the scale 1, 3, 10."""
    lr = BASE_LR * (BASE_WIDTH / width) ** WIDTH_POWER * TIMES_FULL[method.method]
    if method.method in ("lora", "qlora") and method.rank and method.alpha:
        scale = method.alpha / (math.sqrt(method.rank) if method.options.get("rslora") else method.rank)
        lr *= BASE_SCALE / scale * math.sqrt(BASE_RANK / method.rank)
    middle = step_of(lr)
    return rate_of(middle - 1), rate_of(middle), rate_of(middle + 1)


def at_rates(
    recipe: Recipe, cells: list[Cell], sources: Sources, rates: Mapping[str, Sequence[float]] | None
) -> list[Cell]:
    """The cells of `recipe` with a learning rate each: those that are searched for at `rates` by group, or the first.

    `cells` are those of the recipe without them.
    """
    if all(cell.method.max_cells is None for cell in cells):
        return cells

    def rates_of(cell: Cell) -> Sequence[float]:
        shape = sources.shapes.get(cell.model)
        if shape is None:  # a base that cannot be read, which is a problem of its own, or one that is left out
            return ()
        cell = replace(cell, method=source_of(cell.method))
        return (rates or {}).get(group_of(cell)) or first_rates(cell.method, shape.hidden)

    return grid.cells(recipe, rates_of)


def searches(tasks: Sequence[CellTask]) -> dict[str, dict[str, Any]]:
    """The searches that cells belong to, by their group: plain JSON values for the plan file."""
    found = {}
    for task in tasks:
        method = task.cell.method
        if method.max_cells is not None and task.train_index:
            first = list(first_rates(method, task.shape.hidden))
            found[task.entry["group"]] = {"first_rates": first, "max_cells": method.max_cells}
    return found
