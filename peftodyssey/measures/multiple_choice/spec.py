"""Accuracy on multiple-choice tasks: measured where a recipe names `tasks`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return bool(recipe.tasks)


SPEC = MeasureSpec("multiple_choice", asked_by=_asked)
