"""Recipes and plans with every measure that there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftodyssey.measures.registry import MEASURES, SPECS
from peftodyssey.memory.device import Device
from peftodyssey.plan import build as plan_build
from peftodyssey.plan.tasks import Plan
from peftodyssey.recipe import load
from peftodyssey.recipe.schema import Recipe
from peftodyssey.report import collect as report_collect


def load_recipe(path_or_text: str | Path, overrides: Sequence[str] = (), where: str | None = None) -> Recipe:
    """`recipe.load.load_recipe` with every measure."""
    return load.load_recipe(path_or_text, overrides, where, measures=SPECS)


def build(recipe: Recipe, device: Device, budget_bytes: int | None = None) -> Plan:
    """`plan.build.build` with every measure."""
    return plan_build.build(recipe, device, budget_bytes, measures=MEASURES)


def collect(folder: Path) -> list[dict[str, object]]:
    """`report.collect.collect` with every measure: the rows of results."""
    return report_collect.collect(folder, MEASURES)
