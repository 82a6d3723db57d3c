"""A section of the report: one question with its statements, figures and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from peftodyssey.display.chart_style import Figure

NOT_MEASURED = "Not measured"  # how a statement begins that says why there is nothing else


@dataclass(frozen=True)
class Section:
    """One question of the page and the summary; each row of `table` has as many cells as `headings`.

    One that says nothing is not shown, and only its notes are. One that has more to show than a table names a package
    with `templates/section.html.j2`, which renders all of it below its title from `section.view`.
    """

    name: str  # also the anchor on the page
    title: str
    statements: Sequence[str]  # each a sentence with its number and interval, or why there is none
    figures: Sequence[Figure] = ()
    headings: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    caption: str = ""  # of the table
    notes: Sequence[str] = ()  # what a reader may look for and not find, and why; shown at the end
    place: Literal["start", "end"] = "start"  # of the page: before the tables of all cells, or after them
    link: str = ""  # its name in the page's navigation; empty: `name` in words
    templates: str = ""  # package of its own template
    view: Any = None  # what that template shows
    queries: Sequence[str] = ()  # SQL that gives its numbers again

    @property
    def is_shown(self) -> bool:
        """Whether it says anything but notes."""
        return bool(self.statements or self.figures or self.table)

    @property
    def without_text(self) -> Section:
        """The section without words and tokens of documents: those are in its own template and in marked figures."""
        figures = [figure for figure in self.figures if not figure.shows_text]
        return replace(self, figures=figures, templates="", view=None)

    @property
    def is_measured(self) -> bool:
        """Whether it shows anything that was measured, and not only why nothing was."""
        said = any(not text.startswith(NOT_MEASURED) for text in self.statements)
        return bool(said or self.figures or self.table)

    @property
    def short(self) -> str:
        """Its name in the navigation."""
        return self.link or self.name.replace("_", " ").capitalize()
