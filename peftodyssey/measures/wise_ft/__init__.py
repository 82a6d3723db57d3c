"""Cells at shares of their finished update (WiSE-FT), and what constraints add to that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.wise_ft import table
from peftodyssey.measures.wise_ft.spec import SPEC
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class WiseFt(Measure):
    """Shares of the finished update, and constrained cells beside them."""

    spec = SPEC
    tables = {table.TABLE: table.WISE_FT}
    views = {table.TABLE: "shares of the finished update"}

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.wise_ft.plan import planned

        return planned(context)

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        from peftodyssey.measures.wise_ft import job

        job.run(task, handle, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.wise_ft import collect

        return Collected({table.TABLE: collect.rows(run)})

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.wise_ft.section import section

        return [found] if (found := section(sources.rows, sources.table(table.TABLE))) else []
