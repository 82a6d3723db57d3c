"""How many scored documents stand in the text that was trained on, or in each other's splits."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store import layout
from peftodyssey.store.columns import RECIPE


class TextOverlap(Measure):
    """Documents of scored texts that stand in another text, of every run."""

    spec = MeasureSpec("overlap", asked_by=lambda recipe: True)
    tables = {
        layout.TEXT_OVERLAP: {
            **RECIPE,
            "domain": ("string", "the text adapted to"),
            "text": ("string", "the text whose documents are looked for: its name and split"),
            "other": ("string", "the text in which they are: its name and split"),
            "documents": ("int64", "documents that were looked for"),
            "exact": ("int64", "those that stand there word for word, white space aside"),
            "near": ("int64", "those of which half of the windows of eight words stand there"),
            "share": ("float64", "share of both, 0 to 1"),
        }
    }
    views = {layout.TEXT_OVERLAP: "scored documents that stand in the training text or in another split"}
    examples = ("select text, other, share from text_overlap order by share desc",)
