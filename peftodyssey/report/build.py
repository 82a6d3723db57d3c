"""Collects the tables of runs and writes the report: figures, summary and page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from peftodyssey.display import chart_style
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.report import charts, page, page_data, run_facts, summary, tradeoff
from peftodyssey.report.collect import CollectMeasure, collect
from peftodyssey.store import layout, plans, table_record

PAGE = "index.html"
SUMMARY = "summary.md"
FIGURES = "figures"


class ReportMeasure(CollectMeasure, Protocol):
    """A measure as the report sees it."""

    @property
    def examples(self) -> Sequence[str]:
        """SQL over its tables."""

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        """Its sections, from collected tables."""


def build(
    folders: Path | Sequence[Path],
    out: Path | None = None,
    *,
    measures: Sequence[ReportMeasure],
    scoring: str | None = None,
    with_text: bool = True,
    refresh_s: int | None = None,
) -> Path:
    """Collect every run in `folders` and write tables, figures, summary and page; returns the page's path.

    Several runs are compared in one page, in `out` or in the first one's report; their rows have a column `run`. They
    are shown in their newest way of scoring, or in the one that `scoring` names. Without `with_text` the report holds
    no word of a document; with `refresh_s` the page loads itself again after so many seconds.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    scoring = plans.scoring_name(folders[0], scoring) if scoring else None
    report = out or layout.tables_folder(folders[0], scoring) / layout.REPORT
    for folder in folders:
        collect(folder, measures, scoring)
    sources = ReportSources.of(folders, scoring)
    sections = [
        replace(section, queries=measure.examples) for measure in measures for section in measure.sections(sources)
    ]
    sections = sections if with_text else [section.without_text for section in sections]
    drawn = charts.figures(sources.rows, sources.table(layout.LEARNING_CURVES))
    picture = tradeoff.figure(sources.rows)
    data = page.ReportData(
        sources.rows,
        sections,
        [*([picture] if picture else []), *drawn],
        sources.remarks(),
        folders=[folder.resolve().name for folder in folders],
        question=run_facts.question(sources),
        facts=run_facts.facts(sources),
        payload=page_data.page_data(sources, with_text),
        refresh_s=refresh_s,
    )
    figures = [*data.figures, *(figure for section in data.measured for figure in section.figures)]
    data.drawn.update(chart_style.save(figures, report / FIGURES))
    _remove_other_figures(report / FIGURES, {figure.name for figure in figures})
    summary.write(data, report / SUMMARY)
    written = page.write(data, report / PAGE)
    if out is None:
        own = layout.tables_folder(folders[0], scoring)
        table_record.add(own, [f"{layout.REPORT}/{name}" for name in (PAGE, SUMMARY)])
    return written


def _remove_other_figures(folder: Path, names: set[str]) -> None:
    """Remove figures of an earlier report for which this one has no data."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in (".svg", ".png", ".csv") and path.stem not in names:
                path.unlink()
