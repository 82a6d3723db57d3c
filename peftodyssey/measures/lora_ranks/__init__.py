"""Which rank is enough."""

from __future__ import annotations

from peftodyssey.measures.lora_ranks import table
from peftodyssey.measures.lora_ranks.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import RESULTS


class LoraRanks(Measure):
    """Change and forgetting against the rank, and each rank compared with the best of the others."""

    spec = SPEC
    reads = (RESULTS,)
    tables = {table.TABLE: table.RANKS}
    views = {table.TABLE: "ranks compared with the best, with bounds and verdicts"}
