"""The figures of a run's report as charts, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import altair as alt

    from peftodyssey.report.build import ReportMeasure


def figures(folder: Path, measures: Sequence[ReportMeasure], scoring: str | None) -> Mapping[str, alt.TopLevelMixin]:
    """Every figure of the report by its name, from the collected tables."""
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.report import charts, tradeoff
    from peftodyssey.store import layout

    sources = ReportSources.of([folder], scoring)
    picture = tradeoff.figure(sources.rows)
    drawn = [
        *([picture] if picture else []),
        *charts.figures(sources.rows, sources.table(layout.LEARNING_CURVES)),
        *(figure for measure in measures for section in measure.sections(sources) for figure in section.figures),
    ]
    return {figure.name: figure.chart for figure in drawn}
