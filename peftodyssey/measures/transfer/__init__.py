"""What adapting to one text does to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.transfer import table
from peftodyssey.measures.transfer.spec import SPEC
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.store.stored_run import StoredRun


class Transfer(Measure):
    """The change of every cell on every domain of its recipe."""

    spec = SPEC
    tables = {table.TABLE: table.TRANSFER}
    views = {table.TABLE: "every cell on every domain"}
    examples = ("select trained_on, scored_on, avg(delta_nll) as change from transfer group by all",)

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.transfer.plan import planned

        return planned(context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.transfer import collect

        return Collected({table.TABLE: collect.rows(run)})

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.transfer.section import matrices, section

        found = [
            matrix
            for folder in sources.runs
            for matrix in matrices(
                folder,
                sources.rows_of(folder),
                sources.table_of(folder, table.TABLE),
                sources.cells_of(folder),
            )
        ]
        return [made] if (made := section(found, sources.rows)) else []
