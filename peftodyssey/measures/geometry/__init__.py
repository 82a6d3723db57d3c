"""How far fine-tuning moved the weights: norm, rank and directions of the update of every weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.geometry import table
from peftodyssey.measures.geometry.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class Geometry(Measure):
    """Norms and spectra of each cell's update."""

    spec = SPEC
    tables = {table.FILE: table.GEOMETRY}
    columns = table.RESULTS
    views = {table.FILE: "norm, rank and angles of the update of every weight"}
    examples = (
        "select cell, matrix, relative_norm, effective_rank from geometry order by relative_norm desc limit 20",
    )

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.geometry.plan import planned

        return planned(context)

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        from peftodyssey.measures.geometry.job import measure

        measure(task, handle.adapted(), context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.geometry import collect

        return Collected({table.FILE: collect.rows(run)}, collect.columns(run))

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.geometry.section import section

        return [found] if (found := section(sources.rows)) else []
