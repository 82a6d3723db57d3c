"""The change on the text adapted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.degradation import table
from peftodyssey.measures.degradation.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.store.stored_run import StoredRun


class Degradation(Measure):
    """NLL, perplexity and change on test, and NLL on validation."""

    spec = SPEC
    columns = table.RESULTS

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.degradation import collect

        return Collected(columns=collect.columns(run))
