"""Methods compared with each other: paired differences of learning and forgetting, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.contrast import table
from peftodyssey.measures.contrast.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.store.stored_run import StoredRun


class MethodContrast(Measure):
    """Differences between methods at their own best rates and at equal learning."""

    spec = SPEC
    tables = {table.TABLE: table.CONTRAST}
    views = {table.TABLE: "differences between methods, with intervals and verdicts"}
    examples = ("select method, minus, domain, quantity, compared_at, estimate, lo, hi, verdict from contrast",)

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.contrast.plan import planned

        return planned(options, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.contrast import collect

        return Collected({table.TABLE: collect.rows(run)})

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.contrast.section import section

        found = section(sources.table(table.TABLE))
        return [found] if found else []
