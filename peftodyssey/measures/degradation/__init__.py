"""The change on the text adapted to."""

from __future__ import annotations

from peftodyssey.measures.degradation.table import CLUSTER_SUMS, CLUSTERS_TABLE, DIFFERENCES
from peftodyssey.measures.measure import Measure
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store.columns import interval


class Degradation(Measure):
    """NLL, perplexity and change on test, and NLL on validation."""

    spec = MeasureSpec("degradation")
    tables = {CLUSTERS_TABLE: CLUSTER_SUMS}
    views = {CLUSTERS_TABLE: "losses of each cell summed over the clusters of each text"}
    computed = {"differences": DIFFERENCES}
    examples = ("select cell, minus, split, estimate, lo, hi from differences where minus = 'base' order by estimate",)
    columns = {
        "nll_before": ("float64", "test NLL of the unquantised base, nats per token"),
        "nll_quantised": ("float64", "test NLL of the quantised base where there is one, nats per token"),
        "nll_after": ("float64", "test NLL after adaptation, nats per token"),
        "valid_nll_before": ("float64", "validation NLL of the unquantised base, nats per token"),
        "valid_nll_after": ("float64", "validation NLL after adaptation, nats per token"),
        "ppl_before": ("float64", "exp(nll_before)"),
        "ppl_after": ("float64", "exp(nll_after)"),
        "delta_nll": ("float64", "nll_after - nll_before on test; positive: worse"),
        **interval("delta", "delta_nll"),
        "delta_storage": (
            "float64",
            "nll_quantised - nll_before: the part of delta_nll that is there before training, because the base is "
            "stored quantised; the rest is training",
        ),
        "bpb_before": ("float64", "test bits per byte of the unquantised base"),
        "bpb_after": ("float64", "test bits per byte after adaptation"),
        "test_tokens": ("int64", "tokens scored on test"),
        "test_documents": ("int64", "documents scored on test"),
    }
