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
        "general_nll_quantised": (
            "float64",
            "NLL of the quantised base on the general text where there is one, nats per token",
        ),
        "general_nll_after": ("float64", "NLL after adaptation on the general text, nats per token"),
        "forgetting": ("float64", "general_nll_after - general_nll_before; positive: worse"),
        **interval("forgetting"),
        "forgetting_storage": (
            "float64",
            "general_nll_quantised - general_nll_before: the part of forgetting that is there before training, because "
            "the base is stored quantised; the rest is training",
        ),
        "general_documents": ("int64", "documents scored on the general text"),
    }
