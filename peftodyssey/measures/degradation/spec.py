"""How a recipe asks for the change on the text adapted to: the word `degradation`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec

SPEC = MeasureSpec("degradation")
