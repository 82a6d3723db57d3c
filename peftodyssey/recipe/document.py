"""What the recipe of a study and the recipe of a ladder have in common: their text, and the place of each key in it."""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_types import RecipeSection
from peftodyssey.recipe.yaml_tree import Path, Tree


class RecipeDocument(RecipeSection):
    """A whole recipe, checked, with the document that it was read from."""

    _tree: Tree = PrivateAttr(default_factory=Tree)
    _warnings: tuple[Problem, ...] = PrivateAttr(())

    @property
    def source_text(self) -> str:
        """The text as it was given."""
        return self._tree.text

    @property
    def where(self) -> str:
        """The file's name, or a name for text without a file."""
        return self._tree.where

    @property
    def folder(self) -> str:
        """The absolute folder that relative paths start from."""
        return self._tree.folder

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed but probably not meant."""
        return self._warnings

    @property
    def data(self) -> dict[str, Any]:
        """The plain values as written, overrides applied."""
        data: dict[str, Any] = self._tree.data
        return data

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path` or its nearest ancestor; (0, 0) where an override set it."""
        place = self._tree.place(path)
        return place.line, place.column

    def problem(self, path: Path, what: str, **details: Any) -> Problem:
        """A `Problem` at the place of `path`; `details` as in `yaml_tree.Tree.problem`."""
        return self._tree.problem(path, what, **details)
