"""The plans of an output directory: one JSON file per recipe, from which every table is collected.

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
    """Write a plan under the recipe's name and the hash of its content."""
    path = folder / layout.PLANS / f"{layout.folder_name(name, digest)}.json"
    atomic.write_text(path, manifest.to_json(plan))
    return path


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every plan of the directory, the oldest first; StoreError where it is not an output directory."""
    if not layout.is_store(folder):
        raise StoreError(f"{folder} holds no results", "give the directory that `peftodyssey run` wrote, see its --out")
    plans = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / layout.PLANS).glob("*.json"))]
    return sorted(plans, key=lambda plan: plan["created"])


def cells(folder: Path) -> list[dict[str, Any]]:
    """The cells of every plan, each once per way of scoring; the newest recipe that has a cell gives it its name.

    Cells of an earlier version of a recipe are included only if they are done. `recipe` and `measure` of a cell are
    those of its plan; what several plans say of it for a measure as a list (such as its tasks) is that of all plans.
    """
    plans = read_all(folder)
    newest = {plan["recipe"]: number for number, plan in enumerate(plans)}
    by_key: dict[tuple[str, str], dict[str, Any]] = {}
    for number, plan in enumerate(plans):
        for cell in plan["cells"]:
            if newest[plan["recipe"]] != number and manifest.read(folder / cell["folder"]) is None:
                continue
            key = cell["cell"], json.dumps(cell["scores"], sort_keys=True)
            measures = _united(by_key.get(key, {}).get("measures", {}), cell.get("measures", {}))
            by_key[key] = {**cell, "recipe": plan["recipe"], "measure": plan["measure"]}
            if measures:
                by_key[key]["measures"] = measures
    return list(by_key.values())


def _united(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What a later plan says of a cell, and the lists of an earlier one with what is not in the later one."""
    united = dict(later)
    for name, entries in earlier.items():
        if isinstance(entries, list):
            own = united.get(name, [])
            united[name] = [*(entry for entry in entries if entry not in own), *own]
    return united
