"""Cells at shares of their finished update (WiSE-FT), and what constraints add to that."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.wise_ft import table
from peftodyssey.recipe.measure_spec import MeasureSpec


class WiseFt(Measure):
    """Shares of the finished update, and constrained cells beside them."""

    spec = MeasureSpec(
        "wise_ft", asked_by=lambda recipe: any(getattr(method, "wise_ft", ()) for method in recipe.methods)
    )
    tables = {table.TABLE: table.WISE_FT}
    views = {table.TABLE: "shares of the finished update"}
