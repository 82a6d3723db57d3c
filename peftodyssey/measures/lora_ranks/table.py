"""The table of the ranks of an adapter compared with each other."""

from __future__ import annotations

from peftodyssey.store.columns import MODEL, RECIPE, REVISION, Columns

TABLE = "ranks.parquet"
SOLO = ("solo_step_seconds", "solo_tokens_per_second", "solo_memory_bytes")
COORDINATES = (
    "recipe",
    "model",
    "revision",
    "domain",
    "newline",
    "objective",
    "context",
    "score_tokens",
    "rank",
)
ENOUGH, WORSE, UNDECIDED, NOT_COMPARABLE = "enough", "worse", "undecided", "not comparable"

RANKS: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    "domain": ("string", "the text adapted to"),
    "newline": ("string", "its newline policy"),
    "objective": ("string", "text or sft"),
    "context": ("int64", "tokens of a window when it is scored"),
    "score_tokens": ("int64", "tokens of a split that are scored; empty: all"),
    "family": ("string", "the method with its options but for the rank"),
    "alpha_rule": ("string", "how alpha follows from the rank: 2r, or one number for all ranks"),
    "rank": ("int32", "the rank"),
    "seeds": ("int32", "seeds that every compared rank has"),
    "valid_change": (
        "float64",
        "change of validation NLL at the selected learning rate, nats per token, mean over seeds: what is compared",
    ),
    "test_change": ("float64", "change of test NLL, nats per token, mean over seeds; not used to compare ranks"),
    "forgetting": ("float64", "change of NLL on general text, nats per token, mean over seeds, where it was measured"),
    "loss_to_best": ("float64", "valid_change - that of the best other rank; negative: this rank is the best"),
    "loss_lo": (
        "float64",
        "lower bound of the loss to the best; 0: the rank is not the best. Bounds hold for all ranks of the family "
        "together with 95 %, over seeds",
    ),
    "loss_hi": ("float64", "upper bound of the loss to the best; at most the margin: the rank is enough"),
    "degrees_of_freedom": ("int32", "(ranks - 1)(seeds - 1) where ranks vary alike over seeds, else seeds - 1"),
    "pooled": ("bool", "whether the variance over seeds is that of all ranks"),
    "verdict": (
        "string",
        "enough: within the margin of the best; worse: not the best, and not within the margin as far as is known; "
        "undecided; not comparable",
    ),
    "reason": ("string", "why the rank is not comparable"),
    "solo_step_seconds": (
        "float64",
        "seconds of one optimiser step of this rank trained by itself, median of five steps on random tokens",
    ),
    "solo_tokens_per_second": ("float64", "tokens per second of this rank trained by itself"),
    "solo_memory_bytes": (
        "int64",
        "peak memory of these steps: reserved on a GPU, resident in the process on a CPU",
    ),
    "shared_tokens_per_second": (
        "float64",
        "tokens per second of the rank's cells in the run, mean; of cells trained by multi-LoRA each one's share",
    ),
    "margin": ("float64", "the largest loss to the best with which a rank is enough, nats per token"),
}
