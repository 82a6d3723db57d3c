"""How far fine-tuning moved the weights: norm, rank and directions of the update of every weight."""

from __future__ import annotations

from peftodyssey.measures.geometry import table
from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec


class Geometry(Measure):
    """Norms and spectra of each cell's update."""

    spec = MeasureSpec("geometry", needs_unquantised_base=True)
    tables = {table.FILE: table.GEOMETRY}
    columns = table.RESULTS
    views = {table.FILE: "norm, rank and angles of the update of every weight"}
    examples = (
        "select cell, matrix, relative_norm, effective_rank from geometry order by relative_norm desc limit 20",
    )
