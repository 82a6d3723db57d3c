"""How similar each text is to the pretraining text, and whether degradation grows with similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.similarity import table
from peftodyssey.measures.similarity.spec import SPEC
from peftodyssey.store import layout
from peftodyssey.store.collected import RESULTS, Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class TextSimilarity(Measure):
    """Distances of each text from a sample of the pretraining text, and their correlation with the change."""

    spec = SPEC
    reads = (RESULTS,)
    tables = {table.TABLE: table.SIMILARITY, table.CORRELATION_TABLE: table.CORRELATION}
    views = {
        table.TABLE: "similarity of each text to the pretraining text",
        table.CORRELATION_TABLE: "correlation of the change with similarity",
    }

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.similarity.plan import planned

        return planned(options, context)

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        from peftodyssey.measures.similarity.job import write_states

        write_states(task, handle, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.similarity import collect, collect_correlation
        from peftodyssey.store.tables import sort_key

        similar = collect.rows(run)
        correlations = collect_correlation.rows(sorted(tables[layout.RESULTS], key=sort_key), similar)
        return Collected({table.TABLE: similar, table.CORRELATION_TABLE: correlations})

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.similarity.section import sections

        return sections(sources.table(table.TABLE), sources.table(table.CORRELATION_TABLE), sources.rows)
