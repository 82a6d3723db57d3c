"""Changed line breaks: compared where a domain of a recipe has the newline policy `mismatch`."""

from __future__ import annotations

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.recipe.schema import Recipe


def _asked(recipe: Recipe) -> bool:
    return any("mismatch" in corpus.newline for corpus in recipe.domains)


SPEC = MeasureSpec("newlines", asked_by=_asked)
