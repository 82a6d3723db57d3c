"""What a mismatch of line breaks between training and scoring does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.newlines.spec import SPEC

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources


class Newlines(Measure):
    """Cells trained without line breaks and scored with them."""

    spec = SPEC

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.display.token_text import text_reader
        from peftodyssey.measures.newlines.section import mismatches, section

        found = [
            one
            for folder in sources.runs
            for one in mismatches(folder, sources.rows_of(folder), sources.cells_of(folder), text_reader(folder))
        ]
        return [made] if (made := section(found, sources.rows)) else []
