"""The recipes that come with the package: names, text, copies.

Called by `recipes list|show|copy` and by `recipe.load`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftodyssey.errors import InputError

FirstRow = Callable[[Path], dict[str, Any] | None]


def folder() -> Path:
    """`recipes/` of a checkout, or `peftodyssey/recipe/bundled_recipes/` of an installed wheel."""
    installed = Path(__file__).parent / "bundled_recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def path(name: str) -> Path:
    """The file of the shipped recipe `name`; InputError lists those there are."""
    found = folder() / f"{name}.yaml"
    known = [known for known, _ in (*names(), *ladders())]
    if name not in known:
        from peftodyssey.recipe.validation_errors import nearest

        raise InputError(
            f"no recipe is shipped under the name {name}",
            nearest(name, known) or f"there are: {', '.join(known)}",
        )
    return found


def names() -> list[tuple[str, str]]:
    """Each shipped recipe of a study with the first sentence of its opening comment."""
    return [
        (file.stem, _first_sentence(file))
        for file in sorted(folder().glob("*.yaml"))
        if not is_ladder(file.read_text("utf-8"))
    ]


def ladders() -> list[tuple[str, str]]:
    """The same for shipped recipes of ladders, which `ladder train` takes."""
    return [
        (file.stem, _first_sentence(file))
        for file in sorted(folder().glob("*.yaml"))
        if is_ladder(file.read_text("utf-8"))
    ]


def is_ladder(text: str) -> bool:
    """Whether the text of a recipe says that it is one of a ladder."""
    return re.search(r"(?m)^kind\s*:\s*[\"']?ladder\b", text) is not None


def _first_sentence(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    text = " ".join(lines)
    return re.split(r"(?<=[.?!]) ", text)[0]


def read(name: str) -> str:
    """The text of the shipped recipe `name`."""
    return path(name).read_text(encoding="utf-8")


def copy(name: str, to: str | Path) -> Path:
    """Write the shipped recipe `name` to `to` (a file, or a folder to put it in); refuses to overwrite."""
    target = Path(to).expanduser()
    return write(target / f"{name}.yaml" if target.is_dir() else target, read(name))


def write(target: Path, text: str) -> Path:
    """Write `text` to the new file `target`."""
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} is there already", "choose another name, or remove the file") from error
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror}",
            "choose a folder that exists and that you may write to",
        ) from error
    return target


def new(to: str | Path, model: str, domains: list[str], first_row: FirstRow | None = None) -> Path:
    """Write a commented recipe for `model` and the texts `domains` that loads as it is.

    `first_row` gives the first row of a file, None for plain text; by default it reads JSON lines, plain or gz.
    """
    from peftodyssey.recipe import template

    target = Path(to).expanduser()
    return write(target, template.recipe_text(target, model, domains, first_row or template.first_row))
