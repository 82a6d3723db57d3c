"""The tables of what depends on the length of the pretraining, and on the arm of the ladder."""

from __future__ import annotations

from peftodyssey.store.columns import ARM, MODEL, RECIPE, Columns, interval

TABLE = "sensitivity.parquet"
ANNEALING_TABLE = "annealing.parquet"

SENSITIVITY: Columns = {
    **RECIPE,
    **MODEL,
    **ARM,
    "corpus": (
        "string",
        "the text scored: for noise its own, for forgetting the general text, for learning the text adapted to",
    ),
    "domain": ("string", "the text adapted to, where something was trained"),
    "quantity": (
        "string",
        "noise: change under noise; forgetting: change on general text; learning: change on the text adapted to",
    ),
    "intervention": ("string", "the perturbation (gaussian, rank 1, nf4, an update's method), or the method"),
    "minus": ("string", "the other method, where the row is a difference of slopes (intervention - minus)"),
    "gamma": ("float64", "size of the noise"),
    "lr": ("float64", "learning rate, where it is the same for all rungs; empty: the one selected at each rung"),
    "rungs": ("int32", "number of rungs of the ladder"),
    "tokens_from": ("int64", "pretraining tokens of the first rung"),
    "tokens_to": ("int64", "pretraining tokens of the last rung"),
    "repetitions": ("int32", "pairs of noise, or seeds"),
    "documents": ("int64", "documents scored"),
    "slope": (
        "float64",
        "change of the quantity per tenfold pretraining tokens, nats per token; positive: grows with pretraining",
    ),
    **interval("slope", "slope, from repetitions and documents, given this ladder"),
    "turn_tokens": (
        "float64",
        "pretraining tokens at which the changed model's loss is lowest; empty: at an end of the ladder",
    ),
    **interval("turn", "turn_tokens; an end outside of the ladder is empty"),
    "turn_share": ("float64", "share of the resamples in which the changed model's loss has its minimum in the ladder"),
    "note": ("string", "why there is no interval, or what it leaves out"),
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
    "intervention": ("string", "the perturbation, or the method at the learning rate selected on each base"),
    "gamma": ("float64", "size of the noise"),
    "change": ("float64", "the quantity in `arm` - that in `minus`, nats per token; positive: higher in `arm`"),
    **interval("", "change, from repetitions and documents, given these two bases"),
    "repetitions": ("int32", "pairs of noise, or seeds"),
    "documents": ("int64", "documents scored"),
    "note": ("string", "why there is no interval, or what it leaves out"),
}
