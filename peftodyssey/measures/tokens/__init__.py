"""Which tokens the change in NLL of each cell comes from, and the words that distinguish its domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.tokens import table
from peftodyssey.measures.tokens.spec import SPEC
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.store.stored_run import StoredRun


class Tokens(Measure):
    """The change by class, position, frequency, surprisal and type of token; it needs no tasks of its own."""

    spec = SPEC
    tables = {
        table.BREAKDOWN_TABLE: table.TOKEN_BREAKDOWN,
        table.CONCENTRATION_TABLE: table.CONCENTRATION,
        table.TERMS_TABLE: table.TERMS,
        table.RANKS_TABLE: table.TOKEN_RANKS,
    }
    views = {
        table.BREAKDOWN_TABLE: "the change of each cell by class, position, frequency, surprisal and token type",
        table.CONCENTRATION_TABLE: "how few tokens carry the rise",
        table.TERMS_TABLE: "domain terms",
        table.RANKS_TABLE: "rank of the true token, before and after",
    }
    examples = (
        "select cell, name, tokens, part, part_lo, part_hi from token_breakdown where factor = 'class' order by part",
        "select cell, positions, median_before, median_after from token_ranks",
    )

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        from peftodyssey.measures.tokens.plan import planned

        return planned(context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.tokens.collect import rows

        return Collected(rows(run))

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.tokens.section import section

        return [found] if (found := section(sources)) else []
