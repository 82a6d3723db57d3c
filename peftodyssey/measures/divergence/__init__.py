"""How far training moved the predictions, and what of forgetting is slope and what is curvature along the update."""

from __future__ import annotations

from peftodyssey.measures.divergence import table
from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec


class PredictionDivergence(Measure):
    """KL from base to tuned model and changed first guesses; forgetting to second order in the update."""

    spec = MeasureSpec("divergence", needs_general=True)
    columns = table.RESULTS
