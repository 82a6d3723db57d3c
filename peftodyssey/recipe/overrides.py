"""`--set key=value` applied to a recipe's plain values before they are checked.

`methods[1].rank=[4,16]`, `train.budget=100k tokens`; `train.warmup=` and `~train.warmup` delete. Values are read as
YAML.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from peftodyssey.errors import Problem
from peftodyssey.recipe.validation_errors import nearest
from peftodyssey.recipe.yaml_tree import Path, SourceLocation, Tree, format_path, read_tree

PATH = r"[A-Za-z_][\w-]*(?:\[\d+\]|\.\d+|\.[A-Za-z_][\w-]*)*"
SHORT = {"domains": "source", "general": "source", "model": "name", "methods": "method"}


def apply(tree: Tree, texts: tuple[str, ...]) -> list[Problem]:
    """Apply each override to `tree` in order; what cannot be applied is returned."""
    return [problem for text in texts for problem in _apply_one(tree, text)]


def _apply_one(tree: Tree, text: str) -> list[Problem]:
    where = f"--set {text}"
    match = re.fullmatch(rf"\s*(?:~\s*({PATH})|({PATH})\s*=(.*))\s*", text, re.DOTALL)
    if match is None:
        allowed = "key=value, methods[1].rank=[4,16], or ~key to delete"
        return [Problem(where, 0, 0, "", "not an override", allowed=allowed)]
    deleted, assigned, value_text = match.group(1), match.group(2), match.group(3) or ""
    path: Path = tuple(int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", deleted or assigned))
    value = read_tree(value_text, where)
    if value.problems:
        return [replace(problem, line=0, column=0, key=format_path(path)) for problem in value.problems]
    owner, fault = _owner(tree, path, create=deleted is None and value.data is not None)
    if fault:
        return [Problem(where, 0, 0, format_path(path), fault[0], next_step=fault[1])]
    _put(tree, owner, path, value.data, where)
    return []


def _owner(tree: Tree, path: Path, create: bool) -> tuple[Any, tuple[str, str] | None]:
    """The list or mapping that holds the last step of `path`, or what is wrong with the way there."""
    if not isinstance(tree.data, dict):
        return None, ("the recipe is not a mapping", "correct the recipe first")
    node: Any = tree.data
    for end, step in enumerate(path):
        fault = _step_fault(node, step, path[:end], last=end == len(path) - 1, create=create)
        if fault or end == len(path) - 1:
            return node, fault
        if isinstance(node, dict) and step not in node:
            node[step] = {}
        child = node[step]
        if isinstance(child, str) and path[0] in SHORT and isinstance(path[end + 1], str):
            child = node[step] = {SHORT[path[0]]: child}
        node = child
    return node, None


def _step_fault(node: Any, step: Any, above: Path, last: bool, create: bool) -> tuple[str, str] | None:
    place = format_path(above) or "the recipe"
    if isinstance(step, int):
        if not isinstance(node, list):
            return f"{place} is not a list", f"write it without [{step}]"
        if step >= len(node) + (last and create):
            return f"{place} has {len(node)} item{'s' * (len(node) != 1)}", f"count from 0: {place}[0] is the first"
        return None
    if isinstance(node, list):
        return f"{place} is a list", f"say which item: {place}[0].{step}"
    if not isinstance(node, dict):
        return f"{place} has no keys", f"set {place} itself"
    if step not in node and not create:
        return "there is nothing to delete", nearest(step, node) or "remove the override"
    return None


def _put(tree: Tree, owner: Any, path: Path, value: Any, where: str) -> None:
    for places in (tree.keys, tree.values):
        for known in [p for p in places if p[: len(path)] == path]:
            del places[known]
    if value is None:
        del owner[path[-1]]
        return
    if isinstance(owner, list) and path[-1] == len(owner):
        owner.append(value)
    else:
        owner[path[-1]] = value
    tree.keys[path] = tree.values[path] = SourceLocation(where, 0, 0)
