"""A recipe's text to a checked `Recipe`, or every problem in it at once. Called by the Python functions and the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from peftodyssey.errors import InputError, Problem, RecipeError
from peftodyssey.recipe import checks, explain, overrides, shipped
from peftodyssey.recipe.schema import NAME, Recipe
from peftodyssey.recipe.yaml_tree import Path, Tree, read_tree, spell

ROUNDS = 20  # wrong values are taken out and the rest is checked again, at most so often


def load_recipe(path_or_text: str | FilePath, overrides: Sequence[str] = (), where: str | None = None) -> Recipe:
    """The recipe in a file, in a text, or shipped under a name, with `--set` overrides applied.

    Raises RecipeError with every problem, each with its place; InputError where the file cannot be read.
    """
    text, name, folder = _read(path_or_text, where)
    tree = read_tree(text, name)
    found = list(tree.problems)
    if not found:
        found += _shape_problems(tree, name)
    if found:
        raise RecipeError(found)
    found = _override(tree, tuple(overrides))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", FilePath(name).stem).strip("-._")
    recipe, faults = _validate(tree, stem)
    found += [problem for _, problem in faults]
    if recipe is not None:
        recipe._tree, recipe._source_text, recipe._where, recipe._folder = tree, text, name, folder
        found += _cross_check(recipe, tuple(path for path, _ in faults))
    errors = [problem for problem in found if problem.severity == "error"]
    if errors or recipe is None:
        raise RecipeError(found)
    recipe._warnings = tuple(found)
    return recipe


def _override(tree: Tree, texts: tuple[str, ...]) -> list[Problem]:
    return overrides.apply(tree, texts)


def _read(path_or_text: str | FilePath, where: str | None) -> tuple[str, str, str]:
    """The text, the name that problems are reported under, and the folder relative paths start from."""
    if isinstance(path_or_text, str) and ("\n" in path_or_text or ": " in path_or_text or not path_or_text.strip()):
        return path_or_text, where or "recipe", str(FilePath.cwd())
    path = FilePath(path_or_text).expanduser()
    if not path.exists() and str(path_or_text) in dict(shipped.names()):
        path = shipped.path(str(path_or_text))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start} cannot be read", "save the file as UTF-8 text") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, not a recipe", "name the YAML file in it") from error
    except FileNotFoundError as error:
        raise InputError(f"there is no recipe {path}", _similar(path)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "look at the file's permissions") from error
    return text, where or str(path_or_text), str(path.resolve().parent)


def _similar(path: FilePath) -> str:
    known = [name for name, _ in shipped.names()]
    hint = explain.nearest(path.stem, known)
    return hint or f"give the path of a YAML file, or one of the shipped recipes: {', '.join(known)}"


def _shape_problems(tree: Tree, where: str) -> list[Problem]:
    if tree.data is None:
        return [Problem(where, 1, 1, "", "the recipe is empty", next_step="`peftodyssey recipes new my.yaml --model M --domain PATH` writes one")]
    if not isinstance(tree.data, dict):
        return [Problem(where, 1, 1, "", "a recipe is a mapping of keys to values", allowed=", ".join(Recipe.model_fields))]
    return []


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
            now = [(path, problem) for path, problem in explain.problems(error, pruned) if path not in dict(faults)]
            faults += [(path, problem) for path, problem in now if problem.key not in {p.key for _, p in faults}]
            if not now or not all(_remove(data, path) for path, _ in now):
                return None, faults
    return None, faults


def _remove(data: Any, path: Path) -> bool:
    """Take the value at `path` out of `data` without moving its neighbours; False where nothing can be done."""
    owner = data
    for step in path[:-1]:
        owner = owner[step]
    if not path or not isinstance(owner, dict) or path[-1] not in owner:
        return _stand_in(data, path)
    del owner[path[-1]]
    return True


def _stand_in(data: Any, path: Path) -> bool:
    """Put something harmless where a value cannot be taken out: a missing key, or an item of a list."""
    stand_ins: dict[str, Any] = {"model": "bundled/odyssey-3m", "domains": ["bundled/wiki_history_events"], "methods": ["full"], "path": ".", "peft_type": "VERA"}
    if len(path) == 1:
        data[path[0]] = stand_ins[path[0]]
        return True
    if path[0] in ("domains", "general", "methods") and len(path) == 2 and isinstance(path[1], int):
        data[path[0]][path[1]] = {"domains": {"source": f"stand-in-{path[1]}"}, "general": {"source": f"stand-in-{path[1]}"}}.get(path[0], "full")
        return True
    if path[0] == "methods" and path[-1] == "method":
        data["methods"][path[1]] = "full"
        return True
    if path[-1] in stand_ins and isinstance(explain.at(data, path[:-1]), dict):
        explain.at(data, path[:-1])[path[-1]] = stand_ins[path[-1]]
        return True
    return _remove(data, path[:-1]) if len(path) > 1 and not isinstance(explain.at(data, path[:-1]), dict) else False


def _cross_check(recipe: Recipe, wrong: tuple[Path, ...]) -> list[Problem]:
    """What the checks find, without what looked at a value that is wrong by itself."""
    kept = []
    for finding in checks.findings(recipe):
        looked_at = (*finding.needs, finding.path)
        if not any(a[: len(b)] == b or b[: len(a)] == a for a in looked_at for b in wrong):
            path = explain.written_path(finding.path, recipe.data)
            problem = recipe.problem(
                path, finding.what, got=finding.got, allowed=finding.allowed, next_step=finding.next_step, severity=finding.severity
            )
            kept.append(problem if path == finding.path else _respelt(problem, finding.path))
    return kept


def _respelt(problem: Problem, path: Path) -> Problem:
    from dataclasses import replace

    return replace(problem, key=spell(path))
