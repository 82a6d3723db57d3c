"""Floor 5: what people look at: collected tables, charts, the page and the summary.

`build` does all of it; a report directory can be deleted at any time, it is made of the store alone.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = "index.html"
SUMMARY = "summary.md"
FIGURES = "figures"


def build(folders: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Collect every run in `folders` and write tables, figures, summary and page; returns the page's path.

    Several runs are compared in one page, in `out` or in the first one's report; their rows carry a `run` label.
    """
    from peftodyssey.report import charts, drawing, page, summary
    from peftodyssey.store import layout

    given = [folders] if isinstance(folders, Path) else list(folders)
    report = out or given[0] / layout.REPORT
    content, points = _content(given)
    classes = [_class_row(item, entry) for item in content.evidence for entry in item.classes]
    figures = charts.figures(content.rows, points, classes)
    drawn = drawing.save(figures, report / FIGURES)
    _drop_others(report / FIGURES, {figure.name for figure in figures})
    shown = page.Content(content.recipes, content.models, content.rows, figures, drawn, content.evidence)
    summary.write(shown, report / SUMMARY)
    return page.write(shown, report / PAGE)


def _content(folders: Sequence[Path]) -> tuple[Any, list[dict[str, Any]]]:
    """Rows and evidence of all runs as one content without figures, and all points."""
    from peftodyssey.report import page
    from peftodyssey.report.collect import collect
    from peftodyssey.store import layout, parquet

    rows, points, evidence = [], [], []
    for folder, label in zip(folders, _labels(folders), strict=True):
        mark = {"run": label} if label else {}
        own = [{**row, **mark} for row in collect(folder).to_pylist()]
        rows += own
        points += [{**point, **mark} for point in parquet.read(folder / layout.POINTS).to_pylist()]
        evidence += _evidence(folder, own)
    recipes = tuple(dict.fromkeys(row["recipe"] for row in rows))
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    return page.Content(recipes, models, rows, evidence=tuple(evidence)), points


def _labels(folders: Sequence[Path]) -> list[str]:
    """A name for each of several runs: its folder's, or its path where two are called the same; none for a lone run."""
    if len(folders) == 1:
        return [""]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _evidence(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Evidence of the cells that make statements, of the first seed of each."""
    from peftodyssey.report import sentences
    from peftodyssey.report.evidence import evidence, reader
    from peftodyssey.store import plans

    cells = {(cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder)}  # scored otherwise by another recipe
    read = reader(folder)
    firsts: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in sentences.headline(rows):
        firsts.setdefault((*sentences.setting(row), row["label"]), row)
    return [evidence(folder, cells[row["cell"], row["recipe"]], row, read) for row in firsts.values()]


def _class_row(item: Any, entry: Any) -> dict[str, Any]:
    contribution = entry.sum_nats / item.total_tokens
    return {
        "cell": item.row["cell"],
        "run": item.row.get("run"),
        "class": entry.name,
        "tokens": entry.tokens,
        "nats": contribution,
    }


def _drop_others(folder: Path, kept: set[str]) -> None:
    """Remove figures of an earlier report that this one has no data for."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix in (".svg", ".png") and path.stem not in kept:
                path.unlink()
