"""How noise, forgetting and learning depend on the pretraining: on its length, and on the arm of the ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.sensitivity import table
from peftodyssey.measures.sensitivity.spec import SPEC
from peftodyssey.store import layout
from peftodyssey.store.collected import RESULTS, Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.store.stored_run import StoredRun


class Sensitivity(Measure):
    """Slopes along a ladder of pretraining checkpoints, and differences between its arms."""

    spec = SPEC
    reads = ("noise", RESULTS)
    tables = {table.TABLE: table.SENSITIVITY, table.ANNEALING_TABLE: table.ANNEALING}
    views = {
        table.TABLE: "slopes along a ladder of pretraining checkpoints",
        table.ANNEALING_TABLE: "differences between arms of a ladder",
    }

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.sensitivity import collect

        return collect.collected(run, tables[layout.RESULTS])

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.sensitivity import annealing, section

        found = (
            section.section(sources.table(table.TABLE), sources.rows),
            annealing.section(sources.table(table.ANNEALING_TABLE)),
        )
        return [one for one in found if one]
