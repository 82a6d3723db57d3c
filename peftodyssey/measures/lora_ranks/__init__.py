"""Which rank is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.lora_ranks.spec import SPEC
from peftodyssey.measures.measure import Measure

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources


class LoraRanks(Measure):
    """Change and forgetting against the rank."""

    spec = SPEC

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        from peftodyssey.measures.lora_ranks.section import section

        return [found] if (found := section(sources.rows)) else []
