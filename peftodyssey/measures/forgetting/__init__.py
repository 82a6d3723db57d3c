"""The change on general text."""

from __future__ import annotations

from peftodyssey.measures.forgetting.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store.columns import interval


class Forgetting(Measure):
    """NLL and change on general text."""

    spec = SPEC
    columns = {
        "general_nll_before": ("float64", "NLL of the unquantised base on the general text, nats per token"),
        "general_nll_after": ("float64", "NLL after adaptation on the general text, nats per token"),
        "forgetting": ("float64", "general_nll_after - general_nll_before; positive: worse"),
        **interval("forgetting"),
        "general_documents": ("int64", "documents scored on the general text"),
    }
