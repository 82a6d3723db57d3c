"""The best learning rate of each method: selected, interpolated, and what missing it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.learning_rates import table
from peftodyssey.measures.learning_rates.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.collected import RESULTS, Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.store.stored_run import StoredRun


class LearningRates(Measure):
    """Optima of tuned learning rates, with intervals and curvature."""

    spec = SPEC
    reads = (RESULTS,)
    tables = {table.TABLE: table.LEARNING_RATES}
    views = {table.TABLE: "the best learning rate of each method, interpolated, and what a factor of two costs"}
    examples = ("select method, domain, lr, lr_edge, lr_optimum, factor_two_cost from learning_rates",)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.learning_rates import collect

        return Collected({table.TABLE: collect.rows(run, tables)})

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.learning_rates.section import section

        found = section(sources.table(table.TABLE))
        return [found] if found else []
