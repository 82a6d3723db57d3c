"""Dependence on the length of the pretraining: computed where a recipe has more than one base model or rung."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return len(recipe.model) > 1 or any(model.revisions is not None for model in recipe.model)


SPEC = MeasureSpec("sensitivity", asked_by=_asked)
