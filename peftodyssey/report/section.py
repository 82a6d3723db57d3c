"""A section of the report: one question with its statements, figures and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.report.chart_style import Figure


@dataclass(frozen=True)
class Section:
    """One question of the page and the summary; each row of `table` has as many cells as `headings`."""

    name: str  # also the anchor on the page
    title: str
    statements: Sequence[str]  # each a sentence with its number and interval, or why there is none
    figures: Sequence[Figure] = ()
    headings: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    caption: str = ""  # of the table
