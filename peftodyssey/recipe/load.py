"""A recipe's text to a checked `Recipe`, or every problem in it at once.

Called by the Python functions and the command line.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from peftodyssey.errors import InputError, Problem, RecipeError
from peftodyssey.recipe import bundled, checks, validation_errors
from peftodyssey.recipe.overrides import apply as apply_overrides
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_texts import NAME
from peftodyssey.recipe.yaml_tree import Path, Tree, format_path, read_tree

ROUNDS = 20  # wrong values are taken out and the rest is checked again, at most so often


def load_recipe(path_or_text: str | FilePath, overrides: Sequence[str] = (), where: str | None = None) -> Recipe:
    """The recipe in a file, in a text, or shipped under a name, with `--set` overrides applied.

    Raises RecipeError with every problem, each with its place; InputError where the file cannot be read.
    """
    text, name, folder = read_text(path_or_text, where)
    tree = read_tree(text, name)
    found = list(tree.problems)
    if not isinstance(tree.data, dict):
        raise RecipeError(found or shape_problems(tree, name, Recipe))
    if tree.data.get("kind") == "ladder":
        raise InputError(
            f"{name} is the recipe of a ladder, not of a study", f"peftodyssey ladder train {path_or_text}"
        )
    found += apply_overrides(tree, tuple(overrides))
    recipe, faults = _validate(tree, re.sub(r"[^A-Za-z0-9._-]+", "-", FilePath(name).stem).strip("-._"))
    found += [problem for _, problem in faults]
    if recipe is not None:
        recipe._tree, recipe._source_text, recipe._where, recipe._folder = tree, text, name, folder
        found += _cross_check(recipe, tuple(path for path, _ in faults))
    errors = _one_each([problem for problem in found if problem.severity == "error"])
    if errors or recipe is None:
        raise RecipeError(errors)
    recipe._warnings = tuple(found)
    return recipe


def _one_each(problems: list[Problem]) -> list[Problem]:
    """The first problem of each key: a value that could not be read is not also said to be missing."""
    first: dict[tuple[str, int, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.where, problem.line, problem.key), problem)
    return list(first.values())


def read_text(path_or_text: str | FilePath, where: str | None) -> tuple[str, str, str]:
    """The text, the name that problems are reported under, and the folder relative paths start from."""
    if isinstance(path_or_text, str) and ("\n" in path_or_text or ": " in path_or_text or not path_or_text.strip()):
        return path_or_text, where or "recipe", str(FilePath.cwd())
    path = FilePath(path_or_text).expanduser()
    if not path.exists() and str(path_or_text) in dict((*bundled.names(), *bundled.ladders())):
        path = bundled.path(str(path_or_text))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} cannot be read", "save the file as UTF-8 text"
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, not a recipe", "name the YAML file in it") from error
    except FileNotFoundError as error:
        raise InputError(f"there is no recipe {path}", _similar(path)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "look at the file's permissions") from error
    return text, where or str(path_or_text), str(path.resolve().parent)


def _similar(path: FilePath) -> str:
    known = [name for name, _ in bundled.names()]
    hint = validation_errors.nearest(path.stem, known)
    return hint or f"give the path of a YAML file, or one of the shipped recipes: {', '.join(known)}"


def shape_problems(tree: Tree, where: str, kind: type[BaseModel]) -> list[Problem]:
    """What is wrong with a text that is no mapping."""
    if tree.data is None:
        return [
            Problem(
                where,
                1,
                1,
                "",
                "the recipe is empty",
                next_step="`peftodyssey recipes new my.yaml --model M --domain PATH` writes one",
            )
        ]
    return [Problem(where, 1, 1, "", "a recipe is a mapping of keys to values", allowed=", ".join(kind.model_fields))]


def _validate(tree: Tree, stem: str) -> tuple[Recipe | None, list[tuple[Path, Problem]]]:
    """The recipe without its wrong values (None where too little is left), and the problems by path."""
    faults: list[tuple[Path, Problem]] = []
    whole = tree.data
    if re.match(NAME, stem):
        whole.setdefault("name", stem)
    data = copy.deepcopy(whole)
    for _ in range(ROUNDS):
        try:
            return Recipe.model_validate(data), faults
        except ValidationError as error:
            pruned = Tree(data, tree.keys, tree.values)
            now = [
                (path, problem)
                for path, problem in validation_errors.problems(error, pruned)
                if path not in dict(faults)
            ]
            faults += now
            if not now:
                return None, faults
            for path, _ in now:
                _drop_invalid(data, path)
    return None, faults


PLACEHOLDERS: dict[tuple[str, str], Any] = {  # for required values, so that the rest can be checked without them
    ("model", "model"): "gpt2",
    ("model", "name"): "gpt2",
    ("domains", "domains"): "text",
    ("methods", "methods"): "full",
    ("methods", "path"): "saved",
    ("methods", "peft_type"): "VERA",
}

ITEMS = {
    "methods": "full",
    "model": "gpt2",
    "domains": "text-{}",
    "general": "general-{}",
}  # the same for items of lists


def _drop_invalid(data: dict[str, Any], path: Path) -> None:
    """Take the wrong value at `path` out of `data`, or put something harmless there; neighbours keep their places."""
    head, item = path[0], path[1] if len(path) > 1 else None
    whole_item = len(path) == 2 or (head == "methods" and path[2:3] == ("method",))
    if head in ITEMS and isinstance(item, int) and whole_item:
        data[head][item] = ITEMS[head].format(item)
        return
    node: Any = data
    owner, key = data, head
    for step in path[: path.index("lr") + 1] if "lr" in path else path:
        if isinstance(node, dict):
            owner, key = node, step
        if not validation_errors.holds(node, step):
            break
        node = node[step]
    owner.pop(key, None)
    if (head, key) in PLACEHOLDERS:
        owner[key] = PLACEHOLDERS[head, key]


def _cross_check(recipe: Recipe, wrong: tuple[Path, ...]) -> list[Problem]:
    """What the checks find, without what looked at a value that is wrong by itself."""
    kept = []
    for finding in checks.findings(recipe):
        looked_at = (*finding.needs, finding.path)
        if not any(a[: len(b)] == b or b[: len(a)] == a for a in looked_at for b in wrong):
            path = validation_errors.written_path(finding.path, recipe.data)
            problem = recipe.problem(
                path,
                finding.what,
                got=finding.got,
                allowed=finding.allowed,
                next_step=finding.next_step,
                severity=finding.severity,
            )
            kept.append(problem if path == finding.path else replace(problem, key=format_path(finding.path)))
    return kept
