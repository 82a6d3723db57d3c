"""Losses on held-out text during training."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store import layout, tables


class LearningCurves(Measure):
    """The evaluations of a training, and its end."""

    spec = MeasureSpec("learning_curves", asked_by=lambda recipe: bool(recipe.train.eval_at))
    tables = {layout.LEARNING_CURVES: tables.LEARNING_CURVES}
    views = {layout.LEARNING_CURVES: "losses on held-out text during training"}
    examples = ("select cell, step, corpus, split, nll_nats from learning_curves order by cell, step",)
