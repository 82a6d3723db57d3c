"""The table of best learning rates."""

from __future__ import annotations

from peftodyssey.store.columns import MODEL, RECIPE, REVISION, Columns

TABLE = "learning_rates.parquet"

LEARNING_RATES: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    "domain": ("string", "the text adapted to"),
    "newline": ("string", "its newline policy"),
    "objective": ("string", "text or sft"),
    "context": ("int64", "tokens of a window when it is scored"),
    "score_tokens": ("int64", "tokens of a split that are scored; empty: all"),
    "method": ("string", "the label of the method"),
    "budget": ("string", "how long its cells are trained"),
    "rates": ("int32", "learning rates of its grid"),
    "rates_measured": ("int32", "those that were trained to the end with every seed, or diverged"),
    "seeds": ("int32", "seeds over which validation loss is pooled"),
    "lr": ("float64", "the selected learning rate: the lowest mean of validation NLL over seeds"),
    "lr_edge": (
        "string",
        "why it may not be the best: low or high where it is that end of its grid, unmeasured where a neighbour in the "
        "grid was not trained to the end; empty: it is resolved",
    ),
    "lr_optimum": (
        "float64",
        "the best rate by the parabola in log rate through the selected one and its neighbours; empty where it is not "
        "resolved or a neighbour diverged",
    ),
    "lr_optimum_lo": ("float64", "lower end of the 95 % interval of that optimum; empty where it is open"),
    "lr_optimum_hi": ("float64", "upper end of it"),
    "factor_two_cost": (
        "float64",
        "what a rate twice or half the optimum costs by that parabola, nats per token of validation text",
    ),
    "factor_two_cost_lo": ("float64", "lower end of its 95 % interval"),
    "factor_two_cost_hi": ("float64", "upper end of it"),
    "covers": ("string", "what the intervals cover: clusters and seeds, or clusters"),
    "clusters": ("int64", "clusters of the validation text: files, papers, articles, documents"),
    "reason": ("string", "why there is no optimum or no interval"),
}
