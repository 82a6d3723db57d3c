"""What each recipe asked of this directory: one JSON file a recipe, from which every table is collected.

`run` writes them before the first task; `report` and `status` read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout, manifest


def write(folder: Path, name: str, digest: str, plan: Mapping[str, Any]) -> Path:
    """Record a plan under the recipe's name and the hash of what it asks for."""
    path = folder / layout.PLANS / f"{layout.folder_name(name, digest)}.json"
    atomic.write_text(path, manifest.to_json(plan))
    return path


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every plan of the directory, by file name; StoreError where it is no output directory."""
    if not layout.is_store(folder):
        raise StoreError(f"{folder} holds no results", "give the directory that `peftodyssey run` wrote, see its --out")
    plans = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / layout.PLANS).glob("*.json"))]
    return sorted(plans, key=lambda plan: plan["asked"])


def cells(folder: Path) -> list[dict[str, Any]]:
    """The cells of every plan, each once per way of scoring (the newest recipe that asks for it names it).

    What an earlier form of a recipe asked for stays once it is done, and is forgotten where it never was. `recipe` and
    `measure` of a cell are those of its plan; its tasks are those of all of them.
    """
    asked = read_all(folder)
    newest = {plan["recipe"]: number for number, plan in enumerate(asked)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, plan in enumerate(asked):
        for cell in plan["cells"]:
            if newest[plan["recipe"]] == number or manifest.read(folder / cell["folder"]) is not None:
                asked_for = {"recipe": plan["recipe"], "measure": plan["measure"]}
                key = cell["cell"], json.dumps(cell["scores"], sort_keys=True)
                tasks = {task["after"]: task for task in (*found.get(key, {}).get("tasks", ()), *cell.get("tasks", ()))}
                found[key] = {**cell, **asked_for, **({"tasks": list(tasks.values())} if tasks else {})}
    return list(found.values())


def noise(folder: Path) -> list[dict[str, Any]]:
    """What every plan asked of noise: tasks of bases, and along cells' updates, each folder once, with its recipe."""
    found: dict[str, dict[str, Any]] = {}
    for plan in read_all(folder):
        for entry in (*plan.get("noise", ()), *(entry for cell in plan["cells"] for entry in cell.get("updates", ()))):
            found[entry["folder"]] = {**entry, "recipe": plan["recipe"]}
    return list(found.values())
