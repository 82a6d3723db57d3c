"""How noise, forgetting and learning depend on the pretraining: on its length, and on the arm of the ladder."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.sensitivity import table
from peftodyssey.recipe.measure_spec import MeasureSpec


class Sensitivity(Measure):
    """Slopes along a ladder of pretraining checkpoints, and differences between its arms."""

    spec = MeasureSpec(
        "sensitivity",
        asked_by=lambda recipe: len(recipe.model) > 1 or any(model.revisions is not None for model in recipe.model),
    )
    reads = ("contrast", "noise")
    tables = {
        table.TABLE: table.SENSITIVITY,
        table.STEPS_TABLE: table.RUNG_STEPS,
        table.ANNEALING_TABLE: table.ANNEALING,
    }
    views = {
        table.TABLE: "slopes along a ladder of pretraining checkpoints",
        table.STEPS_TABLE: "changes from each rung of a ladder to the next",
        table.ANNEALING_TABLE: "differences between arms of a ladder",
    }
