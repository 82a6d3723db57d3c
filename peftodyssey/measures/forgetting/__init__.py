"""The change on general text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.forgetting import table
from peftodyssey.measures.forgetting.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.store.stored_run import StoredRun


class Forgetting(Measure):
    """NLL and change on general text."""

    spec = SPEC
    columns = table.RESULTS

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.forgetting import collect

        return Collected(columns=collect.columns(run))
