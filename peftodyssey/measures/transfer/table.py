"""The table of every cell on every domain of its recipe."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, Columns, interval

TABLE = "transfer.parquet"

TRANSFER: Columns = {
    **CELL,
    "recipe": ("string", "name of the recipe that measures transfer"),
    "trained_on": ("string", "the text adapted to, with its newline policy where that is not keep"),
    "scored_on": ("string", "the text whose test split is scored, with the newline policy of the scoring"),
    "in_domain": ("bool", "whether that is the text adapted to"),
    "tokens": ("int64", "tokens scored"),
    "nll_before": ("float64", "NLL of the unquantised base there, nats per token"),
    "nll_after": ("float64", "NLL there after adaptation, nats per token"),
    "delta_nll": ("float64", "nll_after - nll_before; positive: worse"),
    **interval("delta", "delta_nll"),
}
