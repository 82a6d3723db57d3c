"""How a recipe asks for the change on general text: the word `forgetting`."""

from __future__ import annotations

from collections.abc import Iterator

from peftodyssey.errors import Problem
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _problems(recipe: Recipe) -> Iterator[Problem]:
    if SPEC in recipe.asked and not recipe.general:
        yield recipe.problem(
            ("general",),
            "forgetting is measured on general text, and there is none",
            next_step="add general: [bundled/wiki_general], or remove forgetting from measure",
            depends_on=(("measure",),),
        )


SPEC = MeasureSpec("forgetting", needs_general=True, problems=_problems)
