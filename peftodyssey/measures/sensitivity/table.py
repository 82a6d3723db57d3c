"""The tables of what depends on the length of the pretraining, and on the arm of the ladder."""

from __future__ import annotations

from peftodyssey.store.columns import ARM, MODEL, RECIPE, Columns, interval

TABLE = "sensitivity.parquet"
STEPS_TABLE = "rung_steps.parquet"
ANNEALING_TABLE = "annealing.parquet"
ONE_RATE = "one rate"  # beside the two of the contrast

WHAT: Columns = {
    **RECIPE,
    **MODEL,
    **ARM,
    "corpus": (
        "string",
        "the text scored: for noise its own, for forgetting the general text, for learning the text adapted to",
    ),
    "domain": ("string", "the text adapted to, where something was trained"),
    "newline": ("string", "its newline policy"),
    "quantity": (
        "string",
        "noise: change under noise; forgetting: change on general text; learning: change on the text adapted to",
    ),
    "intervention": ("string", "the perturbation (gaussian, rank 1, nf4, an update's method), or the method"),
    "minus": ("string", "the other one, which is subtracted, where the row is of a difference"),
    "gamma": ("float64", "size of the noise"),
    "compared_at": (
        "string",
        "of training: own best rate (of each rung, on validation pooled over seeds), one rate (the same on all rungs), "
        "or equal learning (forgetting where all rungs, of both methods in a difference, have learned the same)",
    ),
    "budget": ("string", "tokens or epochs of the training; empty at equal learning"),
    "lr": ("float64", "learning rate, where it is the same for all rungs"),
    "level": ("float64", "learning at equal learning, nats per token: the mean of the levels"),
}
COUNTS: Columns = {
    "repetitions": ("int32", "seeds, or pairs of noise, that every rung has"),
    "clusters": ("int64", "clusters of the text: files, papers, articles, documents"),
}
INTERVAL: Columns = {
    "covers": ("string", "what the intervals cover: clusters and seeds (of noise its pairs), or clusters"),
}

SENSITIVITY: Columns = {
    **WHAT,
    "rungs": ("int32", "number of rungs of the ladder"),
    "tokens_from": ("int64", "pretraining tokens of the first rung"),
    "tokens_to": ("int64", "pretraining tokens of the last rung"),
    **COUNTS,
    "lack_of_fit": (
        "float64",
        "largest deviation from a line in log tokens, divided by the half-width of its interval; above 1 the line is "
        "rejected; empty: two rungs, or no interval",
    ),
    "slope": (
        "float64",
        "change of the quantity per tenfold pretraining tokens, nats per token; positive: grows with pretraining; "
        "empty where the line is rejected",
    ),
    **interval("slope", "slope, given this ladder"),
    "equal_lo": ("float64", "lower end of the 90 % interval of slope, by which it is called equal to 0"),
    "equal_hi": ("float64", "upper end of it"),
    **INTERVAL,
    "verdict": (
        "string",
        "of the slope: more, less, equal (to 0 within the margin), undecided, or not comparable; empty without a slope",
    ),
    "reason": ("string", "why it is not comparable"),
    "margin": ("float64", "the largest slope that is called equal to 0, nats per token and tenfold"),
    "shape": (
        "string",
        "where the line is rejected, the order of the steps that are clear of 0: falls; rises; falls, then rises; "
        "rises, then falls; up and down; no clear step",
    ),
    "turn_tokens": ("int64", "pretraining tokens of the rung where such a shape turns"),
    "lowest_from": (
        "int64",
        "first rung of those that may have the lowest NLL of the changed model: they hold it with 95 % or more",
    ),
    "lowest_to": ("int64", "last rung of these"),
}

RUNG_STEPS: Columns = {
    **WHAT,
    "tokens_from": ("int64", "pretraining tokens of a rung"),
    "tokens_to": ("int64", "pretraining tokens of the next rung"),
    **COUNTS,
    "change": ("float64", "the quantity at the next rung - that at the rung, nats per token"),
    **interval("", "change, given this ladder"),
    **INTERVAL,
    "verdict": ("string", "of the change: more, less, equal (to 0 within the margin), undecided, or not comparable"),
    "sign": (
        "int32",
        "of the change where its interval excludes 0 after correction for the number of steps, else 0; the shape is "
        "made of these",
    ),
}

ANNEALING: Columns = {
    **RECIPE,
    **MODEL,
    **ARM,
    "minus": ("string", "the other arm, which is subtracted"),
    "pretrain_tokens": ("int64", "tokens that both bases were pretrained on"),
    "corpus": ("string", "the text scored, as in sensitivity.parquet"),
    "domain": ("string", "the text adapted to, where something was trained"),
    "quantity": ("string", "noise, forgetting or learning, as in sensitivity.parquet"),
    "intervention": ("string", "the perturbation, or the method at its best learning rate on each base"),
    "gamma": ("float64", "size of the noise"),
    "change": ("float64", "the quantity in `arm` - that in `minus`, nats per token; positive: higher in `arm`"),
    **interval("", "change, given these two bases"),
    **INTERVAL,
    "verdict": ("string", "of the first arm: more, less, equal (within the margin), undecided, or not comparable"),
    "reason": ("string", "why it is not comparable"),
    "margin": ("float64", "the largest change that is called equal, nats per token"),
    **COUNTS,
}
