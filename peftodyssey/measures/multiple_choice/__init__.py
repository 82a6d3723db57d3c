"""Accuracy on multiple-choice tasks, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.multiple_choice import table
from peftodyssey.measures.multiple_choice.spec import SPEC
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class MultipleChoice(Measure):
    """The likeliest choice of each prompt, before and after training."""

    spec = SPEC
    tables = {table.TABLE: table.TASKS}
    files = {table.CHOICES_FILE: table.CHOICES}
    columns = table.RESULTS
    views = {table.TABLE: "accuracy on multiple-choice tasks, before and after"}

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.multiple_choice.plan import planned

        return planned(context)

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        from peftodyssey.measures.multiple_choice import job

        job.run(task, handle, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.multiple_choice import collect

        return collect.collected(run)

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.multiple_choice.section import section

        return [found] if (found := section(sources.rows, sources.table(table.TABLE))) else []
