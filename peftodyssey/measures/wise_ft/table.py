"""The table of cells at shares of their update."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, RECIPE, Columns, interval

TABLE = "wise_ft.parquet"

WISE_FT: Columns = {
    **CELL,
    **RECIPE,
    "share": (
        "float64",
        "share of the trained update in the scored weights: 0 is the base, 1 the adapted model (WiSE-FT)",
    ),
    "nll": ("float64", "test NLL, nats per token"),
    "valid_nll": ("float64", "validation NLL, nats per token"),
    "delta_nll": ("float64", "nll - that of the unquantised base; positive: worse"),
    **interval("delta", "delta_nll"),
    "general_nll": ("float64", "NLL on the general text, nats per token"),
    "forgetting": ("float64", "general_nll - that of the unquantised base; positive: worse"),
    **interval("forgetting"),
}
