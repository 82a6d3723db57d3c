"""Forgetting of methods at equal learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.matched_learning.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store import layout

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources


class MatchedLearning(Measure):
    """Methods compared where they have learned the same."""

    spec = SPEC

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.matched_learning.section import section

        found = section(sources.rows, sources.table(layout.LEARNING_CURVES))
        return [found] if found else []
