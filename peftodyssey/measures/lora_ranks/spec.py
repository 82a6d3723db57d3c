"""Comparison of ranks: made where methods of a recipe have more than one rank."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return len({rank for method in recipe.methods for rank in getattr(method, "rank", ())}) > 1


SPEC = MeasureSpec("lora_ranks", asked_by=_asked)
