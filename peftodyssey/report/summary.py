"""The report in one Markdown file: the page's sentences and the final table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftodyssey.report import console_table, newlines, noise, result_text, token_sentences
from peftodyssey.report.page import ReportData, unmeasured
from peftodyssey.store import atomic


def write(content: ReportData, path: Path) -> Path:
    """Write the summary to `path`, whole or not at all."""
    atomic.write_text(path, markdown(content))
    return path


def markdown(content: ReportData) -> str:
    """The summary's text; numbers that differ between runs of one recipe (time, memory) are only in the table."""
    stated = result_text.statements(content.rows) or ["No cell is finished yet, so there is nothing to state."]
    limits = [
        *result_text.caveats(content.rows),
        *unmeasured(content.rows, content.tables),
        *([] if content.noise else [noise.UNMEASURED]),
    ]
    tokens = token_sentences.statements(content.rows, content.tables)
    mismatch = newlines.statements(content.mismatches, content.rows)
    missing = token_sentences.unmeasured(content.rows, content.tables)
    headings, lines = console_table.cells(content.rows)
    parts = [
        f"# {_text(', '.join(content.recipes))}",
        (
            f"Base: {_text(', '.join(content.models))}. Changes are after minus before: negative is better. 95 % "
            f"intervals."
        ),
        _list(stated),
        _table(headings, lines) if lines else "",
        *(part for section in content.sections for part in (f"## {section.title}", _list(section.statements))),
        "## Which tokens pay",
        _list([*tokens, *filter(None, [missing])] or ["No cell is finished yet."]),
        *(("## What a mismatch of line breaks did", _list(mismatch)) if mismatch else ()),
        "## What limits this",
        _list(limits),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *([_text(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _text(text: str) -> str:
    """Names and reasons as plain text of one line: no HTML, no table bars."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
