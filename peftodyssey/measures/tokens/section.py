"""Section: which tokens the change comes from. Its part of the page is `templates/section.html.j2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from peftodyssey.display import token_text
from peftodyssey.display.result_text import Row, amount, interval, percent
from peftodyssey.display.section import Section
from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.tokens import charts, sentences
from peftodyssey.measures.tokens.evidence import Evidence, evidence_of_run
from peftodyssey.measures.tokens.sentences import CLASS_NAMES, PART, RECALL, TokenTables
from peftodyssey.measures.tokens.table import BREAKDOWN_TABLE, CONCENTRATION_TABLE, RANKS_TABLE, TERMS_TABLE

TITLE = "Which tokens does the change come from?"
FACTORS = {
    "position": "position in the document",
    "frequency": "occurrences of the token in the pretraining sample",
    "surprisal": "decile of the base's NLL (regression to the mean makes hard tokens fall and easy ones rise)",
}
NO_FREQUENCY = "Frequency in the pretraining text was not measured: the recipe names no `pretraining_text`."


@dataclass(frozen=True)
class TokensView:
    """What the template shows, and how it names and writes it."""

    statements: Sequence[str]
    unmeasured: str  # why some cells have no numbers; empty if all have
    evidence: Sequence[Evidence]
    class_names: ClassVar[Mapping[str, str]] = CLASS_NAMES
    factors: ClassVar[Mapping[str, str]] = FACTORS

    @staticmethod
    def visible(text: str) -> str:
        """A token's text with signs for its white space."""
        return token_text.visible(text)

    @staticmethod
    def percent(share: float | None) -> str:
        """A share with two significant digits."""
        return percent(share)

    @staticmethod
    def part(entry: Row) -> str:
        """A group's part of the change, with its interval."""
        return interval(entry, PART)

    @staticmethod
    def recall_points(entry: Row) -> str:
        """The change of recall at 10 in percentage points, with its interval."""
        return amount([entry], RECALL, "", 1, 100)


def sections(sources: ReportSources) -> list[Section | None]:
    """The section, of all runs together."""
    return [section(sources)]


def section(sources: ReportSources) -> Section | None:
    """The section; None if no cell is finished."""
    rows, tables = sources.rows, tables_of(sources)
    said, missing = sentences.statements(rows, tables), sentences.unmeasured(rows, tables)
    if not said and not missing:
        return None
    evidence = [one for folder in sources.runs for one in evidence_of_run(sources.rows_of(folder), tables)]
    return Section(
        "tokens",
        TITLE,
        [*said, *([missing] if missing else [])],
        charts.figures(rows, evidence),
        notes=notes(tables),
        place="end",
        link="Tokens",
        templates=__package__,
        view=TokensView(said, missing, evidence),
    )


def tables_of(sources: ReportSources) -> TokenTables:
    """The token tables by cell and domain."""
    names = (BREAKDOWN_TABLE, CONCENTRATION_TABLE, RANKS_TABLE, TERMS_TABLE)
    return sentences.token_tables(*(sources.table(name) for name in names))


def notes(tables: TokenTables) -> list[str]:
    """What was not measured of the tokens, and why."""
    factors = {entry["factor"] for entries in tables.breakdown.values() for entry in entries}
    return [NO_FREQUENCY] if factors and "frequency" not in factors else []
