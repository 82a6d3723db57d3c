"""How a recipe asks for how far the weights moved: the word `geometry`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec

SPEC = MeasureSpec("geometry", needs_unquantised_base=True)
