"""Losses on held-out text during training: every cell has them, at the shares of `train.eval_at`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return bool(recipe.train.eval_at)


SPEC = MeasureSpec("learning_curves", asked_by=_asked)
