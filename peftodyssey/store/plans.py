"""The plans of an output directory: one JSON file per recipe, from which every table is collected.

`run` writes them before the first task; `report` and `status` read them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from peftodyssey.errors import InputError, StoreError
from peftodyssey.store import atomic, layout, manifest, sealed

# Cells of one recipe that agree in these are the same line of it, whatever it said of their training and scoring.
WRITTEN_ALIKE = ("label", "method", "model", "revision", "domain", "newline", "objective", "lr", "seed")
DAMAGED_SUFFIX = ".damaged"  # of the name of a plan that was set aside


def write(folder: Path, name: str, digest: str, plan: Mapping[str, Any]) -> None:
    """Write a plan under the recipe's name and the hash of its content."""
    sealed.write(folder / layout.PLANS / f"{layout.folder_name(name, digest)}.json", plan)


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every plan of the directory, the oldest first.

    Raises StoreError where it is not an output directory, a plan is damaged, or cells are there and no plan.
    """
    if not layout.is_store(folder):
        raise StoreError(f"{folder} holds no results", "give the directory that `peftodyssey run` wrote, see its --out")
    plans = [plan for path in paths(folder) if (plan := _read(path)) is not None]
    if not plans and (lost := list((folder / layout.CELLS).glob(f"*/{layout.MANIFEST}"))):
        raise StoreError(
            f"{folder / layout.PLANS} holds no plan, and {len(lost)} finished cells lie in {folder / layout.CELLS}",
            f"`peftodyssey run {folder / layout.RECIPE} --out {folder}` writes the plan of the last recipe again",
        )
    return sorted(plans, key=lambda plan: plan["created"])


def paths(folder: Path) -> list[Path]:
    """The files of the plans."""
    return sorted((folder / layout.PLANS).glob("*.json"))


def damage(path: Path) -> str:
    """What is wrong with the file of a plan; "" where it is whole."""
    try:
        _read(path)
    except sealed.Damaged as damaged:
        return damaged.what
    return ""


def set_aside_damaged(folder: Path) -> list[Path]:
    """Rename damaged plans, so that the others are read; returns their new names.

    A run writes the plan of its own recipe again.
    """
    aside = []
    for path in paths(folder):
        if damage(path):
            with atomic.io_errors_as_store_error(path):
                aside.append(path.rename(path.with_name(path.name + DAMAGED_SUFFIX)))
    return aside


def _read(path: Path) -> dict[str, Any] | None:
    plan = sealed.read(path)
    if plan is not None and (wrong := _wrong_shape(plan)):
        raise sealed.Damaged(path, wrong)
    return plan


def _wrong_shape(plan: Mapping[str, Any]) -> str:
    """Why a JSON object is no plan; "" where it is one."""
    kinds = {"recipe": str, "created": str, "measure": list, "cells": list}
    for key, kind in kinds.items():
        if not isinstance(plan.get(key), kind):
            return f"its `{key}` is missing or of another type"
    for number, cell in enumerate(plan["cells"]):
        if not isinstance(cell, dict) or not isinstance(cell.get("coordinates"), dict):
            return f"its cell {number} has no coordinates"
        if not isinstance(cell.get("cell"), str) or not isinstance(cell.get("scores"), dict):
            return f"its cell {number} has no name, or no scores"
        if wrong := _wrong_scores(cell["scores"]):
            return f"its cell {number}: {wrong}"
        if outside := [name for name in _folders(cell) if not _is_below(name)]:
            return f"its cell {number} names {outside[0]!r}, which is not below the directory"
    return ""


def _wrong_scores(scores: Mapping[str, Any]) -> str:
    """What is wrong with the texts that a cell's line names; "" where nothing is."""
    general = scores.get("general")
    if not isinstance(general, list):
        return "its general texts are no list"
    named = ("index", "before", "after")
    for text in (scores.get("test"), *filter(None, [scores.get("valid")]), *general):
        if not isinstance(text, dict) or not all(isinstance(text.get(key), str) for key in named):
            return "a text lacks one of index, before and after"
    return ""


def _folders(cell: Mapping[str, Any]) -> list[Any]:
    """Every folder that a cell's line names."""
    scores = cell["scores"]
    texts = [scores.get("test"), scores.get("valid"), *(scores.get("general") or ())]
    named = [
        text.get(key) for text in texts if isinstance(text, dict) for key in ("index", "before", "quantised", "after")
    ]
    return [name for name in (cell.get("folder"), cell.get("train_index"), *named) if name is not None]


def _is_below(name: object) -> bool:
    return isinstance(name, str) and not PurePath(name).is_absolute() and ".." not in PurePath(name).parts


def of_scoring(folder: Path, scoring: str | None = None) -> list[dict[str, Any]]:
    """The plans of the directory, the oldest first; with `scoring` those of its cells that are scored so.

    `scoring` is a name or its beginning. Raises InputError where no cell is scored so, or several names begin with it.
    """
    plans = read_all(folder)
    if scoring is None:
        return plans
    name = scoring_name(folder, scoring)
    kept = ({**plan, "cells": [cell for cell in plan["cells"] if cell.get("scoring") == name]} for plan in plans)
    return [plan for plan in kept if plan["cells"]]


def scoring_name(folder: Path, scoring: str) -> str:
    """The whole name of a way of scoring that `scoring` begins; InputError with those that there are."""
    known = scorings(folder)
    matching = [name for name in known if name.startswith(scoring)]
    if len(matching) != 1:
        there = "; ".join(f"{name}: {text}" for name, text in known.items())
        raise InputError(f"{len(matching)} ways of scoring of {folder} begin with {scoring!r}", f"there are: {there}")
    return matching[0]


def scorings(folder: Path) -> dict[str, str]:
    """The ways in which the cells of the directory are scored, the newest first: name -> what it is in words."""
    found: dict[str, str] = {}
    for plan in reversed(read_all(folder)):
        for cell in plan["cells"]:
            if (name := cell.get("scoring")) is not None:
                found.setdefault(name, _in_words(cell))
    return found


def _in_words(cell: Mapping[str, Any]) -> str:
    score, general = cell["coordinates"], ", ".join(text["name"] for text in cell["scores"]["general"])
    cap = "all tokens" if score.get("score_tokens") is None else f"{score['score_tokens']:,} tokens"
    return (
        f"{cap} of a split, context {score['context']}, stride {score.get('stride')}, general text {general or 'none'}"
    )


def cells(folder: Path, scoring: str | None = None) -> list[dict[str, Any]]:
    """The cells of every plan, each once, as the newest plan that has it scores it, or as `scoring` does.

    A recipe that was changed gives a cell that is written alike (label, text, base, learning rate, seed, and place of
    its budget among several) its newest training and scoring; other cells of its earlier versions are there if they are
    done. A cell that two recipes score alike has the name of the newer one. `recipe` and `measure` of a cell are those
    of its plan; what several plans say of it for a measure as a list (such as its tasks) is that of all plans.
    """
    plans = of_scoring(folder, scoring)
    newest = {plan["recipe"]: number for number, plan in enumerate(plans)}
    by_key: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, plan in enumerate(plans):
        alike: Counter[tuple[str, ...]] = Counter()
        for cell in plan["cells"]:
            written = tuple(str(cell["coordinates"].get(name)) for name in WRITTEN_ALIKE)
            alike[written] += 1
            if newest[plan["recipe"]] != number and manifest.read(folder / cell["folder"]) is None:
                continue
            key = (plan["recipe"], *written, str(alike[written]))
            earlier = by_key.pop(key, {})
            same = earlier.get("scores") == cell["scores"] and earlier.get("cell") == cell["cell"]
            measures = _united(earlier.get("measures", {}) if same else {}, cell.get("measures", {}))
            by_key[key] = {**cell, "recipe": plan["recipe"], "measure": plan["measure"]}
            if measures:
                by_key[key]["measures"] = measures
    once: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in by_key.values():  # of recipes that share a cell the newest is the last
        shared = cell["cell"], json.dumps(cell["scores"], sort_keys=True)
        measures = _united(once.get(shared, {}).get("measures", {}), cell.get("measures", {}))
        once[shared] = {**cell, "measures": measures} if measures else cell
    return list(once.values())


def _united(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What a later plan says of a cell, and the lists of an earlier one with what is not in the later one."""
    united = dict(later)
    for name, entries in earlier.items():
        if isinstance(entries, list):
            own = united.get(name, [])
            united[name] = [*(entry for entry in entries if entry not in own), *own]
    return united
