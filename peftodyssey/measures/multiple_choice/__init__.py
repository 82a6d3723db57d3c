"""Accuracy on multiple-choice tasks, before and after."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.multiple_choice import table
from peftodyssey.recipe.measure_spec import MeasureSpec


class MultipleChoice(Measure):
    """The likeliest choice of each prompt, before and after training."""

    spec = MeasureSpec("multiple_choice", asked_by=lambda recipe: bool(recipe.tasks))
    tables = {table.TABLE: table.TASKS}
    files = {table.CHOICES_FILE: table.CHOICES}
    columns = table.RESULTS
    views = {table.TABLE: "accuracy on multiple-choice tasks, before and after"}
