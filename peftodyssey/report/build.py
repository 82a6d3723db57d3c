"""Collects the tables of runs and writes the report: figures, summary and page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from peftodyssey.report import (
    annealing,
    chart_style,
    charts,
    constraints,
    geometry,
    matched_learning,
    newlines,
    noise,
    page,
    ranks,
    sensitivity,
    similarity,
    summary,
    tasks,
    token_charts,
    transfer,
)
from peftodyssey.report.collect import collect
from peftodyssey.report.result_text import Row
from peftodyssey.report.token_evidence import Evidence, evidence_of_run
from peftodyssey.report.token_sentences import token_tables
from peftodyssey.report.token_text import text_reader
from peftodyssey.store import layout, parquet, plans

PAGE = "index.html"
SUMMARY = "summary.md"
FIGURES = "figures"
TOKEN_TABLES = (layout.TOKEN_BREAKDOWN, layout.CONCENTRATION, layout.TOKEN_RANKS, layout.TERMS)


def build(folders: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Collect every run in `folders` and write tables, figures, summary and page; returns the page's path.

    Several runs are compared in one page, in `out` or in the first one's report; their rows have a column `run`.
    """
    runs = _labels([folders] if isinstance(folders, Path) else list(folders))
    report = out or next(iter(runs)) / layout.REPORT
    for folder in runs:
        collect(folder)
    data = _report_data(runs)
    figures = [*data.figures, *data.token_figures, *(figure for section in data.sections for figure in section.figures)]
    data.drawn.update(chart_style.save(figures, report / FIGURES))
    _remove_other_figures(report / FIGURES, {figure.name for figure in figures})
    summary.write(data, report / SUMMARY)
    return page.write(data, report / PAGE)


def _labels(folders: Sequence[Path]) -> dict[Path, str]:
    """A name for each of several runs: its folder's, or its path if two have the same name; none for a single run."""
    if len(folders) == 1:
        return {folders[0]: ""}
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return {folder: name if unique else str(folder) for folder, name in zip(folders, names, strict=True)}


def _table(runs: dict[Path, str], name: str) -> list[Row]:
    """Rows of one collected table of all runs, with their run if there are several."""
    return [
        {**row, "run": label} if label else row
        for folder, label in runs.items()
        for row in parquet.read(folder / name).to_pylist()
    ]


def _report_data(runs: dict[Path, str]) -> page.ReportData:
    rows = _table(runs, layout.RESULTS)
    tables = token_tables(*(_table(runs, name) for name in TOKEN_TABLES))
    evidence: list[Evidence] = []
    mismatches: list[newlines.Mismatch] = []
    matrices: list[transfer.TransferMatrix] = []
    for folder, label in runs.items():
        own = [row for row in rows if row.get("run", "") == label]
        cells = {(cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder)}
        text_of = text_reader(folder)
        evidence += evidence_of_run(folder, own, tables, cells, text_of)
        mismatches += newlines.mismatches(folder, own, cells, text_of)
        matrices += transfer.matrices(folder, own, parquet.read(folder / layout.TRANSFER).to_pylist(), cells)
    curves, wise = _table(runs, layout.LEARNING_CURVES), _table(runs, layout.WISE_FT)
    noise_rows, slopes = _table(runs, layout.NOISE_TABLE), _table(runs, layout.SENSITIVITY)
    sections = (
        ranks.section(rows),
        matched_learning.section(rows, curves),
        noise.section(noise_rows, slopes),
        sensitivity.section(slopes, rows),
        annealing.section(_table(runs, layout.ANNEALING)),
        tasks.section(rows, _table(runs, layout.TASKS)),
        geometry.section(rows),
        constraints.section(rows, wise),
        *similarity.sections(_table(runs, layout.SIMILARITY), _table(runs, layout.CORRELATION), rows),
        transfer.section(matrices, rows),
        newlines.section(mismatches, rows),
    )
    return page.ReportData(
        rows,
        [section for section in sections if section],
        charts.figures(rows, curves),
        tables,
        evidence,
        token_charts.figures(rows, evidence),
        has_noise=bool(noise_rows),
    )


def _remove_other_figures(folder: Path, names: set[str]) -> None:
    """Remove figures of an earlier report for which this one has no data."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in (".svg", ".png") and path.stem not in names:
                path.unlink()
