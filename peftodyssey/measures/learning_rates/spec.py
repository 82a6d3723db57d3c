"""Best learning rates: looked for where a method of the recipe has several of which one is selected."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    rates = [method.lr for method in recipe.methods if hasattr(method, "lr")]
    return any(spec.tune or spec.auto for spec in rates)


SPEC = MeasureSpec("learning_rates", asked_by=_asked)
