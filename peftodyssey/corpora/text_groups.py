"""Which texts belong together: the groups that a correlation over texts is also looked for within. Called by
`plan.states`.

Texts of one kind (pages of an encyclopaedia, papers, code) are alike in much else than their likeness to the
pretraining text, so a correlation over kinds may be one of kinds.
"""

from __future__ import annotations

import re

from peftodyssey.corpora.m2d2 import L1
from peftodyssey.recipe.cell import CorpusSpec

M2D2_WIKIPEDIA = L1[: L1.index("Art")]


def group(point: CorpusSpec) -> str:
    """The first part of the text's name, up to `_`, `-` or a dot; of M2D2's configurations, wikipedia or s2orc."""
    if point.source.startswith("m2d2/"):
        first = point.source.removeprefix("m2d2/").split("__")[0]
        return "wikipedia" if first in M2D2_WIKIPEDIA else "s2orc"
    return re.split(r"[-_.]", point.name)[0].lower()
