"""How a recipe asks for the change token by token: the word `tokens`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec

SPEC = MeasureSpec("tokens", needs_pretraining_text=True)
