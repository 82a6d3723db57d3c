"""What a recipe knows of a measure: how it is asked for, its options, and the texts that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from peftodyssey.errors import Problem
from peftodyssey.recipe.field_types import RecipeSection


class NoOptions(RecipeSection):
    """The options of a measure that has none."""


def _no_problems(recipe: Any) -> Iterator[Problem]:
    yield from ()


@dataclass(frozen=True)
class MeasureSpec:
    """One measure, as the recipe's schema and checks see it.

    A measure is asked for by its word under `measure`, or, where `asked_by` is given, by other keys of the recipe; one
    of these that has options has a word as well.
    `problems` yields what is wrong between its options and the rest of a recipe; it is called for every recipe.
    """

    name: str
    options: type[RecipeSection] = NoOptions
    example: str = ""  # options as a recipe writes them, for messages and documentation
    needs_general: bool = False  # scores the general text
    needs_pretraining_text: bool = False  # reads the sample of pretraining text, where the recipe names one
    needs_unquantised_base: bool = False  # changes or compares weights of the base that are not quantised
    asked_by: Callable[[Any], bool] | None = None  # of a Recipe; None: only the word `name` in `measure`
    problems: Callable[[Any], Iterator[Problem]] = _no_problems  # of a Recipe

    @property
    def is_word(self) -> bool:
        """Whether `measure` of a recipe may hold its name."""
        return self.asked_by is None or self.options is not NoOptions
