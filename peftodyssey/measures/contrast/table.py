"""The table of differences between methods."""

from __future__ import annotations

from peftodyssey.store.columns import MODEL, RECIPE, REVISION, Columns

TABLE = "contrast.parquet"

OWN_RATE, EQUAL_LEARNING, DOMINANCE = "own best rate", "equal learning", "dominance"
LEARNING, FORGETTING = "learning", "forgetting"
BUDGETS, RATES = "budgets", "learning rates"  # what the ends of a path differ in

CONTRAST: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    "domain": ("string", "the text adapted to"),
    "newline": ("string", "its newline policy"),
    "objective": ("string", "text or sft"),
    "context": ("int64", "tokens of a window when it is scored"),
    "score_tokens": ("int64", "tokens of a split that are scored; empty: all"),
    "method": ("string", "the label of the first method"),
    "minus": ("string", "the label of the second method, which is subtracted"),
    "named": (
        "bool",
        "whether the recipe, or the default, names this pair: its verdict is then that of `lo` and `hi`; the verdict "
        "of every other pair is that of the simultaneous interval",
    ),
    "quantity": (
        "string",
        "learning: fall of test NLL from the unquantised base; forgetting: rise of general NLL from it",
    ),
    "compared_at": (
        "string",
        "own best rate: each method at the learning rate that is best on validation text, pooled over seeds; equal "
        "learning: where both have learned the same; dominance: two cells of which one learned more and forgot less",
    ),
    "level": ("float64", "of equal learning: what both have learned, nats per token; empty: the mean over the levels"),
    "share": ("float64", "of equal learning: that level over the most that every seed of both methods learned"),
    "path": (
        "string",
        "of equal learning, what the ends of a path differ in: budgets, each at the rate that is best there on "
        "validation text; or, with one budget, learning rates",
    ),
    "method_budget": ("string", "budget of the first method, as results have it; empty at equal learning"),
    "minus_budget": ("string", "budget of the second method"),
    "method_lr": ("float64", "learning rate of the first method; empty at equal learning"),
    "minus_lr": ("float64", "learning rate of the second method"),
    "estimate": ("float64", "the quantity of the first method - that of the second, nats per token; mean over seeds"),
    "confidence": ("float64", "of the interval: 0.95; of dominance higher, for the number of pairs of cells searched"),
    "lo": ("float64", "lower end of that interval of the estimate; empty with too few clusters"),
    "hi": ("float64", "upper end of it"),
    "equal_lo": ("float64", "lower end of the 90 % interval, by which methods are called equal"),
    "equal_hi": ("float64", "upper end of it"),
    "simultaneous_lo": (
        "float64",
        "lower end of the interval with which all pairs of methods of the text and base hold together at 95 % "
        "(Bonferroni); empty for dominance, whose own interval is corrected",
    ),
    "simultaneous_hi": ("float64", "upper end of it"),
    "pairs": ("int32", "pairs of methods over which it is simultaneous"),
    "storage": (
        "float64",
        "part of the estimate that is there before training, because a base is stored quantised; the rest is training. "
        "Empty where neither is, and at equal learning, where a path starts at the cost of its storage",
    ),
    "covers": ("string", "what the intervals cover: clusters and seeds, or clusters"),
    "verdict": ("string", "of the first method: less, more, equal, undecided, or not comparable"),
    "reason": ("string", "why it is not comparable"),
    "decide": ("string", "what would decide an undecided difference, at this estimate and these variances"),
    "margin": ("float64", "the largest difference that is called equal, nats per token"),
    "seeds": ("int32", "seeds that both methods have"),
    "clusters": (
        "int64",
        "clusters of the text, of two texts of the one with fewer: files, papers, articles, documents",
    ),
    "degrees_of_freedom": ("float64", "of Student's t (Satterthwaite)"),
    "clusters_se": ("float64", "standard error of the estimate over clusters"),
    "seeds_se": ("float64", "standard error of the estimate over seeds; empty with fewer than three"),
    "pooled_settings": ("int32", "settings whose variance over seeds is pooled; 1: its own"),
}
