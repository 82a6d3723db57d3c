"""The report in one Markdown file: the page's sentences and the final table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftodyssey.display import caveats, result_text
from peftodyssey.display.section import Section
from peftodyssey.report import answers, console_table
from peftodyssey.report.page import CONTRAST, ReportData, notes
from peftodyssey.store import atomic


def write(data: ReportData, path: Path) -> Path:
    """Write the summary to `path` in one step."""
    atomic.write_text(path, markdown(data))
    return path


def markdown(data: ReportData) -> str:
    """The summary's text; numbers that differ between two runs of one recipe (time, memory) are only in the table."""
    statements = result_text.statements(data.rows) or ["No cell is finished yet."]
    headings, lines = console_table.cells(data.rows)
    first = [section for section in data.shown if section.name == CONTRAST]
    parts = [
        f"# {_text(', '.join(data.recipes))}",
        f"Base: {_text(', '.join(data.models))}. Changes are after minus before: negative is better. 95 % intervals.",
        _list(answers.lines(data.rows)),
        *(part for section in first for part in _section(section)),
        "## What did each method change?",
        _list(statements),
        _table(headings, lines) if lines else "",
        *(part for section in data.shown if section not in first for part in _section(section)),
        "## Limits",
        _list([*data.limits, *caveats.caveats(data.rows), *notes(data)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> tuple[str, str]:
    return f"## {section.title}", _list(section.statements)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *([_text(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _text(text: str) -> str:
    """Names and reasons as plain text of one line: no HTML, no table bars."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
