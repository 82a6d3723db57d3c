"""Shares of the finished update: measured where a method of a recipe has `wise_ft`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return any(getattr(method, "wise_ft", ()) for method in recipe.methods)


SPEC = MeasureSpec("wise_ft", asked_by=_asked)
