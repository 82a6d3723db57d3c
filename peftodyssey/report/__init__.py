"""Floor 5: what people look at: collected tables, charts, the page and the summary.

`build` does all of it; a report directory can be deleted at any time, it is made of the store alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftodyssey.report import page, token_sentences
    from peftodyssey.report.token_evidence import Evidence
    from peftodyssey.report.token_text import Text

Row = Mapping[str, Any]
PAGE = "index.html"
SUMMARY = "summary.md"
FIGURES = "figures"
TOKEN_TABLES = ("token_breakdown.parquet", "concentration.parquet", "token_ranks.parquet", "terms.parquet")


def build(folders: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Collect every run in `folders` and write tables, figures, summary and page; returns the page's path.

    Several runs share one page, in `out` or in the first one's report; their rows carry a `run` label."""
    from peftodyssey.report import (
        annealing,
        chart_style,
        charts,
        constraints,
        geometry,
        matched_learning,
        noise,
        noise_charts,
        page,
        ranks,
        sensitivity,
        similarity,
        summary,
        tasks,
        token_charts,
        transfer,
        transfer_charts,
    )
    from peftodyssey.store import layout

    given = [folders] if isinstance(folders, Path) else list(folders)
    report = out or given[0] / layout.REPORT
    content, points, wise = _content(given)
    names = (layout.SIMILARITY, layout.CORRELATION, layout.ANNEALING)
    similar, correlations, between = (_tables(given, name) for name in names)
    figures = [
        *charts.figures(content.rows, points),
        *ranks.figures(content.rows),
        *matched_learning.figures(content.rows, points),
        *tasks.figures(content.rows, content.answered),
        *constraints.figures(content.rows, wise),
        *noise_charts.figures(content.noise),
        *sensitivity.figures(content.sensitivity, content.rows),
        *geometry.figures(content.rows),
        *similarity.figures(content.rows, similar),
        *transfer_charts.figures(content.transfer),
        *token_charts.figures(content.rows, content.evidence),
    ]
    drawn = chart_style.save(figures, report / FIGURES)
    sections = (
        ranks.section(content.rows),
        matched_learning.section(content.rows, points),
        noise.section(content.noise, content.sensitivity),
        sensitivity.section(content.sensitivity, content.rows),
        annealing.section(between),
        tasks.section(content.rows, content.answered),
        geometry.section(content.rows),
        constraints.section(content.rows, wise),
        *similarity.sections(similar, correlations),
        transfer.section(content.transfer, content.rows),
    )
    shown = dataclasses.replace(content, figures=figures, drawn=drawn, sections=[one for one in sections if one])
    _drop_others(report / FIGURES, {figure.name for figure in figures})
    summary.write(shown, report / SUMMARY)
    return page.write(shown, report / PAGE)


def _content(folders: Sequence[Path]) -> tuple[page.ReportData, list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and evidence of all runs as one content without figures, all points, and all shares of updates."""
    from peftodyssey.report import newlines, page, token_sentences, token_text, transfer
    from peftodyssey.report.collect import collect
    from peftodyssey.store import layout, parquet, plans

    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    wise: list[dict[str, Any]] = []
    shifted: list[dict[str, Any]] = []
    slopes: list[dict[str, Any]] = []
    of_tokens: list[list[dict[str, Any]]] = [[] for _ in TOKEN_TABLES]
    evidence, found, crossed = [], [], []
    answered: list[dict[str, Any]] = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        mark = {"run": label} if label else {}
        own = [{**row, **mark} for row in collect(folder).to_pylist()]
        rows += own
        whole = {
            layout.LEARNING_CURVES: points,
            layout.TASKS: answered,
            layout.WISE_FT: wise,
            layout.NOISE_TABLE: shifted,
            layout.SENSITIVITY: slopes,
        }
        for name, table in (*whole.items(), *zip(TOKEN_TABLES, of_tokens, strict=True)):
            table += [{**row, **mark} for row in parquet.read(folder / name).to_pylist()]
        tables = token_sentences.tables(*of_tokens)
        cells = {
            (cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder)
        }  # scored otherwise by another recipe
        text_of = token_text.reader(folder)
        evidence += _evidence(folder, own, tables, cells, text_of)
        found += newlines.mismatches(folder, own, cells, text_of)
        crossed += transfer.matrices(folder, own, parquet.read(folder / layout.TRANSFER).to_pylist(), cells)
    recipes = tuple(dict.fromkeys(row["recipe"] for row in rows))
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    content = page.ReportData(
        recipes,
        models,
        rows,
        evidence=tuple(evidence),
        mismatches=tuple(found),
        answered=answered,
        tables=tables,
        noise=shifted,
        sensitivity=slopes,
        transfer=crossed,
    )
    return content, points, wise


def _tables(folders: Sequence[Path], name: str) -> list[dict[str, Any]]:
    """Rows of one collected table of all runs, marked with their run where there are several."""
    from peftodyssey.store import parquet

    marked = zip(folders, _labels(folders), strict=True)
    return [
        {**row, **({"run": label} if label else {})}
        for folder, label in marked
        for row in parquet.read(folder / name).to_pylist()
    ]


def _labels(folders: Sequence[Path]) -> list[str]:
    """A name for each of several runs: its folder's, or its path where two are called the same; none for a lone run."""
    if len(folders) == 1:
        return [""]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _evidence(
    folder: Path,
    rows: Sequence[Row],
    tables: token_sentences.Tables,
    cells: Mapping[tuple[str, str], Row],
    text_of: Callable[[str], Text],
) -> list[Evidence]:
    """Evidence of the cells that make statements and whose tokens were measured, of the first seed of each."""
    from peftodyssey.report import result_text
    from peftodyssey.report.token_evidence import evidence
    from peftodyssey.report.token_sentences import key

    firsts: dict[tuple[str, ...], Row] = {}
    for row in result_text.selected_cells(rows):
        if key(row) in tables.ledger:
            firsts.setdefault((*result_text.setting(row), row["label"]), row)
    return [evidence(folder, cells[row["cell"], row["recipe"]], row, tables, text_of) for row in firsts.values()]


def _drop_others(folder: Path, kept: set[str]) -> None:
    """Remove figures of an earlier report that this one has no data for."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in (".svg", ".png") and path.stem not in kept:
                path.unlink()
