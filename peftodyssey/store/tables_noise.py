"""The tables of noise of the weights and of what depends on the length of the pretraining. Part of `store.tables`."""

from __future__ import annotations

Columns = dict[str, tuple[str, str]]

SHIFTS: Columns = {
    "kind": ("string", "base: no shift; gaussian, low_rank, update, quantiser"),
    "gamma": ("float64", "size of the noise; of an update the noise that is as long"),
    "rank": ("int32", "rank of low-rank noise"),
    "quantiser": ("string", "nf4, fp4 or int8"),
    "pair": ("int32", "number of the antithetic pair, which is its seed"),
    "sign": ("int32", "1 or -1"),
    "norm": ("float64", "Frobenius norm of the shift as it is stored, over all shifted tensors"),
    "relative": ("float64", "norm over that of the weights themselves"),
    "document": ("int32", "number of the document within its text"),
    "tokens": ("int64", "tokens scored in the document"),
    "nll_sum_nats": ("float64", "their NLL summed, nats"),
}

NOISE: Columns = {
    "recipe": ("string", "name of the recipe that asked for it"),
    "model": ("string", "name of the base model"),
    "revision": ("string", "revision of the base model"),
    "pretrain_tokens": ("int64", "tokens that the base was pretrained on, where known"),
    "arm": ("string", "ladder arm of the base, where known"),
    "corpus": ("string", "the text scored"),
    "kind": (
        "string",
        "gaussian, low_rank (the same Frobenius norm, tensor by tensor), update (a cell's own, rescaled), quantiser",
    ),
    "scale": (
        "string",
        (
            "what gamma multiplies: initializer, fan_in, earliest_rung; relative (the current weights) is another "
            "experiment"
        ),
    ),
    "sigma": ("float64", "that standard deviation, as a root mean square over all shifted numbers"),
    "gamma": ("float64", "size of the noise; of an update the noise that is as long"),
    "rank": ("int32", "rank of low-rank noise; where an update has one, its"),
    "quantiser": ("string", "nf4, fp4 (double quantised) or int8"),
    "cell": ("string", "of an update: first 16 hex digits of the cell's identity"),
    "label": ("string", "of an update: the cell's method"),
    "lr": ("float64", "of an update: the cell's learning rate"),
    "seed": ("int64", "of an update: the cell's seed"),
    "pairs": ("int32", "antithetic pairs, +eps and -eps; 0: a single shift"),
    "tensors": ("string", "which tensors were shifted: blocks, embeddings, head"),
    "norm": ("float64", "Frobenius norm of the shift as it is stored, mean over the pairs"),
    "relative": ("float64", "norm over that of the weights themselves"),
    "tokens": ("int64", "tokens scored"),
    "documents": ("int64", "documents scored"),
    "nll_base": ("float64", "NLL of the base, nats per token"),
    "nll_perturbed": ("float64", "NLL of the shifted base, mean over the pairs, nats per token"),
    "rise_nats": ("float64", "nll_perturbed - nll_base; positive: worse"),
    "lo": ("float64", "lower end of the 95 % interval of rise_nats, from pairs and documents"),
    "hi": ("float64", "upper end of the 95 % interval of rise_nats"),
    "note": ("string", "why there is no interval"),
}

SENSITIVITY: Columns = {
    "recipe": ("string", "name of the recipe that asked for it"),
    "model": ("string", "name of the base model"),
    "arm": ("string", "ladder arm of the bases"),
    "corpus": (
        "string",
        "the text scored: of noise its name, of forgetting the general text, of learning the text adapted to",
    ),
    "domain": ("string", "the text adapted to, where something was trained"),
    "quantity": (
        "string",
        "noise: rise under noise; forgetting: change on general text; learning: change on the text adapted to",
    ),
    "intervention": ("string", "the shift (gaussian, rank 1, nf4, an update's method), or the method"),
    "minus": ("string", "the other method, where the row is a difference of slopes (intervention - minus)"),
    "gamma": ("float64", "size of the noise"),
    "lr": ("float64", "learning rate, where one is held for all rungs; empty: the selected one of each rung"),
    "rungs": ("int32", "rungs of the ladder"),
    "tokens_from": ("int64", "pretraining tokens of the first rung"),
    "tokens_to": ("int64", "pretraining tokens of the last rung"),
    "repetitions": ("int32", "pairs of noise, or seeds"),
    "documents": ("int64", "documents scored"),
    "slope": (
        "float64",
        "rise of the quantity per tenfold pretraining tokens, nats per token; positive: longer pretraining costs more",
    ),
    "slope_lo": ("float64", "lower end of its 95 % interval, from repetitions and documents, given this ladder"),
    "slope_hi": ("float64", "upper end of its 95 % interval"),
    "turn_tokens": (
        "float64",
        "pretraining tokens at which the modified model's loss is lowest; empty: at an end of the ladder",
    ),
    "turn_lo": ("float64", "lower end of its 95 % interval; empty: outside of the ladder"),
    "turn_hi": ("float64", "upper end of its 95 % interval; empty: outside of the ladder"),
    "turn_share": ("float64", "share of the resamples in which the modified model's loss turns up within the ladder"),
    "note": ("string", "why there is no interval, or what it leaves out"),
}

ANNEALING: Columns = {
    "recipe": ("string", "name of the recipe that asked for it"),
    "model": ("string", "name of the base model"),
    "arm": ("string", "ladder arm of the bases"),
    "minus": ("string", "the other arm, whose cost is subtracted"),
    "pretrain_tokens": ("int64", "tokens that both bases were pretrained on"),
    "corpus": ("string", "the text scored, as in sensitivity.parquet"),
    "domain": ("string", "the text adapted to, where something was trained"),
    "quantity": ("string", "noise, forgetting or learning, as in sensitivity.parquet"),
    "intervention": ("string", "the shift, or the method at the learning rate selected on each base"),
    "gamma": ("float64", "size of the noise"),
    "change": (
        "float64",
        "the quantity in `arm` less that in `minus`, nats per token; positive: it costs more in `arm`",
    ),
    "lo": ("float64", "lower end of its 95 % interval, from repetitions and documents, given these two bases"),
    "hi": ("float64", "upper end of its 95 % interval"),
    "repetitions": ("int32", "pairs of noise, or seeds"),
    "documents": ("int64", "documents scored"),
    "note": ("string", "why there is no interval, or what it leaves out"),
}

SHARPNESS: Columns = {
    "recipe": ("string", "name of the recipe that asked for it"),
    "model": ("string", "name of the base model"),
    "revision": ("string", "revision of the base model"),
    "pretrain_tokens": ("int64", "tokens that the base was pretrained on, where known"),
    "arm": ("string", "ladder arm of the base, where known"),
    "corpus": ("string", "the text whose loss is watched"),
    "direction": (
        "string",
        "gradient: against the base's own on that text; update: along what the cell's training added",
    ),
    "cell": ("string", "of an update: first 16 hex digits of the cell's identity"),
    "label": ("string", "of an update: the cell's method"),
    "lr": ("float64", "of an update: the cell's learning rate"),
    "seed": ("int64", "of an update: the cell's seed"),
    "step_lo": ("float64", "longest step tried that does not raise the loss, Frobenius norm of the shift"),
    "step_hi": ("float64", "shortest step tried beyond it that does"),
    "length": ("float64", "Frobenius norm of the gradient, or of the update as it was trained"),
    "sharpness": (
        "float64",
        "2 over the critical step in units of length (of the gradient's: the critical sharpness of arXiv 2601.16979)",
    ),
    "passes": ("int32", "forward passes over the text that it took"),
}
