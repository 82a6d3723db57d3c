"""What adapting to one text does to the others."""

from __future__ import annotations

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.transfer import table
from peftodyssey.measures.transfer.spec import SPEC


class Transfer(Measure):
    """The change of every cell on every domain of its recipe."""

    spec = SPEC
    tables = {table.TABLE: table.TRANSFER}
    views = {table.TABLE: "every cell on every domain"}
    examples = ("select trained_on, scored_on, avg(delta_nll) as change from transfer group by all",)
