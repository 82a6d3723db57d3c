"""What a mismatch of line breaks between training and scoring does."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec


class Newlines(Measure):
    """Cells trained without line breaks and scored with them."""

    spec = MeasureSpec(
        "newlines", asked_by=lambda recipe: any("mismatch" in corpus.newline for corpus in recipe.domains)
    )
