"""The recipes that come with the package: names, text, copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.errors import InputError

if TYPE_CHECKING:
    from peftodyssey.recipe.template import ModelFacts, TextFacts


def folder() -> Path:
    """`recipes/` of a checkout, or `peftodyssey/recipe/bundled_recipes/` of an installed wheel."""
    installed = Path(__file__).parent / "bundled_recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def path(name: str) -> Path:
    """The file of the bundled recipe `name`; InputError lists those there are."""
    known = every_name()
    if name not in known:
        from peftodyssey.recipe.validation_errors import nearest

        raise InputError(
            f"no bundled recipe is called {name}", nearest(name, known) or f"there are: {', '.join(known)}"
        )
    return folder() / f"{name}.yaml"


def every_name() -> list[str]:
    """The names of all bundled recipes, of studies and of ladders."""
    return sorted(file.stem for file in folder().glob("*.yaml"))


def names() -> list[tuple[str, str]]:
    """Each bundled recipe of a study with the first sentence of its opening comment."""
    return [(name, _first_sentence(read(name))) for name in every_name() if not is_ladder(read(name))]


def ladders() -> list[tuple[str, str]]:
    """The same for bundled recipes of ladders, which `ladder train` takes."""
    return [(name, _first_sentence(read(name))) for name in every_name() if is_ladder(read(name))]


def is_ladder(text: str) -> bool:
    """Whether the text of a recipe says that it is one of a ladder."""
    return re.search(r"(?m)^kind\s*:\s*[\"']?ladder\b", text) is not None


def _first_sentence(text: str) -> str:
    comment = re.match(r"(#.*\n)*", text)
    words = " ".join(line.lstrip("# ").strip() for line in comment.group().splitlines()) if comment else ""
    return re.split(r"(?<=[.?!]) ", words)[0]


def read(name: str) -> str:
    """The text of the bundled recipe `name`."""
    return path(name).read_text(encoding="utf-8")


def copy(name: str, to: str | Path) -> Path:
    """Write the bundled recipe `name` to `to` (a file, or a folder to put it in); refuses to overwrite."""
    target = Path(to).expanduser()
    return _write(target / f"{name}.yaml" if target.is_dir() else target, read(name))


def _write(target: Path, text: str) -> Path:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} exists already", "choose another name, or remove the file") from error
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror}",
            "choose a folder that exists and that you may write to",
        ) from error
    return target


def new(to: str | Path, models: Sequence[str], texts: Sequence[TextFacts], facts: Sequence[ModelFacts]) -> Path:
    """Write a commented recipe for `models` and `texts`, from what was found of them; returns its path."""
    from peftodyssey.recipe.template import recipe_text

    target = Path(to).expanduser()
    return _write(target, recipe_text(target, models, texts, facts))
