"""How similar each text is to the pretraining text, and whether degradation grows with similarity."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.similarity import table
from peftodyssey.measures.similarity.spec import SPEC
from peftodyssey.store.collected import RESULTS


class TextSimilarity(Measure):
    """Distances of each text from a sample of the pretraining text, and their correlation with the change."""

    spec = SPEC
    reads = (RESULTS,)
    tables = {table.TABLE: table.SIMILARITY, table.CORRELATION_TABLE: table.CORRELATION}
    views = {
        table.TABLE: "similarity of each text to the pretraining text",
        table.CORRELATION_TABLE: "correlation of the change with similarity",
    }
