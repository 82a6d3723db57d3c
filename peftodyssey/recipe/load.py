"""The text of a study's recipe as a checked `Recipe`, or every problem in it at once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from peftodyssey.errors import InputError, Problem, RecipeError
from peftodyssey.recipe import bundled, checks, validation_errors
from peftodyssey.recipe.document import RecipeDocument
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.overrides import apply as apply_overrides
from peftodyssey.recipe.schema import Recipe, recipe_class
from peftodyssey.recipe.schema_texts import NAME
from peftodyssey.recipe.yaml_tree import Path, Tree, holds, read_tree
from peftodyssey.untrusted import limits

ROUNDS = 20  # wrong values are taken out and the rest is checked again, at most so often
Document = TypeVar("Document", bound=RecipeDocument)

PLACEHOLDERS: dict[tuple[str, str], Any] = {  # for required values, so that the rest can be checked without them
    ("model", "model"): "gpt2",
    ("model", "name"): "gpt2",
    ("domains", "domains"): "text",
    ("methods", "methods"): "full",
    ("methods", "path"): "saved",
    ("methods", "peft_type"): "VERA",
}
ITEM_PLACEHOLDERS = {"methods": "full", "model": "gpt2", "domains": "text-{}", "general": "general-{}"}


def load_recipe(
    path_or_text: str | FilePath,
    overrides: Sequence[str] = (),
    where: str | None = None,
    *,
    measures: tuple[MeasureSpec, ...],
) -> Recipe:
    """The recipe in a file, in a text, or bundled under a name, with `--set` overrides applied.

    `measures` are those that it may ask for. Raises RecipeError with every problem, each with its place; InputError
    where the file cannot be read.
    """
    tree = read_document(path_or_text, where, Recipe)
    if tree.data.get("kind") == "ladder":
        raise InputError(
            f"{tree.where} is the recipe of a ladder, not of a study", f"peftodyssey ladder train {path_or_text}"
        )
    return check_document(tree, recipe_class(measures), overrides, checks.problems)


def read_document(path_or_text: str | FilePath, where: str | None, root: type[RecipeDocument]) -> Tree:
    """The mapping in a file, in a text, or in the bundled recipe of that name; RecipeError where it is no mapping."""
    tree = read_tree(*_read_text(path_or_text, where))
    if isinstance(tree.data, dict):
        return tree
    if not tree.problems and tree.data is None:
        next_step = "`peftodyssey recipes new my.yaml --model M --domain PATH` writes one"
        tree.problems = [Problem(tree.where, 1, 1, "", "the recipe is empty", next_step=next_step)]
    elif not tree.problems:
        allowed = ", ".join(root.model_fields)
        tree.problems = [Problem(tree.where, 1, 1, "", "a recipe is a mapping of keys to values", allowed=allowed)]
    raise RecipeError(tree.problems)


def _read_text(path_or_text: str | FilePath, where: str | None) -> tuple[str, str, str]:
    """The text, the name that problems are reported under, and the folder relative paths start from."""
    if isinstance(path_or_text, str) and ("\n" in path_or_text or ": " in path_or_text or not path_or_text.strip()):
        return path_or_text, where or "recipe", str(FilePath.cwd())
    path = FilePath(path_or_text).expanduser()
    if not path.exists() and str(path_or_text) in bundled.every_name():
        path = bundled.path(str(path_or_text))
    try:
        text = limits.read_bytes(path, limits.RECIPE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} cannot be read", "save the file as UTF-8 text"
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, not a recipe", "name the YAML file in it") from error
    except FileNotFoundError as error:
        known = bundled.every_name()
        hint = validation_errors.nearest(path.stem, known)
        hint = hint or f"give the path of a YAML file, or the name of a bundled recipe: {', '.join(known)}"
        raise InputError(f"there is no recipe {path}", hint) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the file's permissions") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be a recipe: {error}", "name a YAML file") from error
    return text, where or str(path_or_text), str(path.resolve().parent)


def check_document(
    tree: Tree,
    root: type[Document],
    overrides: Sequence[str],
    check: Callable[[Document], Iterator[Problem]],
) -> Document:
    """The `root` in `tree` with overrides applied; RecipeError where a value, or several together, cannot be.

    `check` yields what is wrong between values; it runs on the values that are right by themselves.
    """
    problems = [*tree.problems, *apply_overrides(tree, tuple(overrides))]
    document, faults = _validate(tree, root)
    problems += faults.values()
    if document is not None:
        document._tree = tree
        problems += [problem for problem in check(document) if not _rests_on(problem, faults)]
    errors: dict[tuple[str, int, str], Problem] = {}
    for problem in problems:
        if problem.severity == "error":  # one for each key: a value that cannot be read is not also missing
            errors.setdefault((problem.where, problem.line, problem.key), problem)
    if errors or document is None:
        raise RecipeError(list(errors.values()))
    document._warnings = tuple(problems)
    return document


def _validate(tree: Tree, root: type[Document]) -> tuple[Document | None, dict[Path, Problem]]:
    """The document without its wrong values (None where too little is left), and the problems by path."""
    faults: dict[Path, Problem] = {}
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", FilePath(tree.where).stem).strip("-._")
    if re.match(NAME, stem):
        tree.data.setdefault("name", stem)
    data = copy.deepcopy(tree.data)
    for _ in range(ROUNDS):
        try:
            return root.model_validate(data), faults
        except ValidationError as error:
            pruned = Tree(data, keys=tree.keys, values=tree.values)
            new = validation_errors.problems(error, pruned, root)
            new = {path: problem for path, problem in new.items() if path not in faults}
            if not new:
                break
            faults |= new
            for path in new:
                _drop_invalid(data, path)
    return None, faults


def _drop_invalid(data: dict[str, Any], path: Path) -> None:
    """Take the wrong value at `path` out of `data`, or put a placeholder there; neighbours keep their places."""
    head, item = path[0], path[1] if len(path) > 1 else None
    is_item = len(path) == 2 or (head == "methods" and path[2:3] == ("method",))
    if head in ITEM_PLACEHOLDERS and isinstance(item, int) and is_item:
        data[head][item] = ITEM_PLACEHOLDERS[head].format(item)
        return
    node: Any = data
    owner, key = data, head
    for step in path[: path.index("lr") + 1] if "lr" in path else path:
        if isinstance(node, dict):
            owner, key = node, step
        if not holds(node, step):
            break
        node = node[step]
    owner.pop(key, None)
    if (head, key) in PLACEHOLDERS:
        owner[key] = PLACEHOLDERS[head, key]


def _rests_on(problem: Problem, faults: dict[Path, Problem]) -> bool:
    """Whether a check looked at a value that is wrong by itself, or at one around or inside it."""
    return any(a[: len(b)] == b or b[: len(a)] == a for a in problem.depends_on for b in faults)
