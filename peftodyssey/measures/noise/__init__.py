"""What noise on the weights costs: of the base, and along the updates of cells, against low rank and rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.noise import table
from peftodyssey.measures.noise.spec import SPEC
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class WeightNoise(Measure):
    """The rise of the loss when a base's weights move by noise, by rounding or along an update; critical steps."""

    spec = SPEC
    shows = ("sensitivity",)
    tables = {table.TABLE: table.NOISE, table.SHARPNESS_TABLE: table.SHARPNESS}
    files = {table.SHIFTS_FILE: table.SHIFTS}
    views = {table.TABLE: "loss under weight noise", table.SHARPNESS_TABLE: "critical steps"}
    examples = ("select kind, gamma, avg(rise_nats) as rise from noise group by all order by kind, gamma",)

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.noise.plan import planned

        return planned(options, context)

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        from peftodyssey.measures.noise import job

        job.run(task, handle, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.noise import collect

        return collect.collected(run)

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.noise.section import section
        from peftodyssey.measures.sensitivity.table import TABLE

        return [section(sources.table(table.TABLE), sources.table(TABLE))]
