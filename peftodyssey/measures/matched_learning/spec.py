"""Forgetting at equal learning: compared where a recipe has more than one method and measures forgetting."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return "forgetting" in recipe.measured and len(recipe.methods) > 1


SPEC = MeasureSpec("matched_learning", asked_by=_asked)
