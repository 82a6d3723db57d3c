"""Repair of a directory of results without a model: temporary files, the plan of its last recipe, tables and page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from peftodyssey.errors import OdysseyError
from peftodyssey.execution.launch import record
from peftodyssey.plan.tasks import Plan
from peftodyssey.store import layout, lock, plans, survey, table_record


def repair(root: Path, plan_of: Callable[[str, str], Plan], report: Callable[[Path], object]) -> Iterator[str]:
    """Make again what needs no model; yields a line for everything that was done or could not be.

    `plan_of` plans a recipe (path, device), `report` writes tables and page. What `run` has to make again stays.
    """
    with lock.exclusive(root):
        yield from (f"deleted: {path}" for path in survey.sweep(root))
        aside = plans.set_aside_damaged(root)
        yield from (f"set aside: {path}" for path in aside)
        if aside or any(damage.place == layout.PLANS for damage in survey.known_damage(root)) or not plans.paths(root):
            yield _write_plan(root, plan_of)
    try:
        if plans.read_all(root) and not table_record.is_current(root, root):
            report(root)
            yield f"written again: tables and page of {root}"
    except OdysseyError as error:
        yield f"tables and page were not written: {error.message}"


def _write_plan(root: Path, plan_of: Callable[[str, str], Plan]) -> str:
    """Writes the plan of the last recipe, where it gives the cells that resolved.yaml names; a line that says so."""
    next_step = f"`peftodyssey run RECIPE --out {root}` writes the plan of that recipe"
    try:
        resolved = yaml.load((root / layout.RESOLVED).read_bytes(), yaml.CSafeLoader)
        folders = [str(cell["folder"]) for cell in resolved["cells"]]
        plan = plan_of(str(root / layout.RECIPE), str(resolved["device"]))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return f"no plan was written: {layout.RESOLVED} cannot be read ({type(error).__name__}); {next_step}"
    except OdysseyError as error:
        return f"no plan was written: {error.message}; {next_step}"
    if sorted(folders) != sorted(task.folder for task in plan.cells):
        return f"no plan was written: {layout.RECIPE} gives other cells than {layout.RESOLVED}; {next_step}"
    record(plan, root)
    return f"written again: the plan of {plan.recipe.name}, {len(folders)} cells"
