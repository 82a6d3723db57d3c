"""A question that the page and the summary answer: its sentences, the figures of its name, a table. Made by the modules
of each question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One question. Figures stand in it whose `section` is its name; `table` rows are text, as long as `headings`."""

    name: str  # also the anchor on the page
    title: str
    statements: Sequence[str]  # each a sentence with its number and interval, or why there is none
    headings: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    caption: str = ""  # of the table
