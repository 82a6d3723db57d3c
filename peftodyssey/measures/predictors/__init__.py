"""Which number of a cell foretells its forgetting, also for a method that it was not fitted on."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.predictors import table
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store.collected import RESULTS


class Predictors(Measure):
    """How well each predictor orders the cells by forgetting, and foretells that of a method left out."""

    spec = MeasureSpec("predictors", needs_general=True)
    reads = (RESULTS,)
    tables = {table.TABLE: table.PREDICTORS}
    views = {table.TABLE: "which number of a cell foretells its forgetting, leaving one method out"}
    examples = ("select domain, predictor, skill, spearman from predictors where left_out is null order by skill desc",)
