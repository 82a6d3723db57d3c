"""The tables of weight noise: what a task writes, and what is collected."""

from __future__ import annotations

from peftodyssey.store.columns import ARM, MODEL, PRETRAIN_TOKENS, RECIPE, REVISION, UPDATE_CELL, Columns, interval

TABLE = "noise.parquet"
SHARPNESS_TABLE = "sharpness.parquet"
SHIFTS_FILE = "shifts.parquet"  # in the folder of a task

SHIFTS: Columns = {
    "kind": ("string", "base: unchanged weights; gaussian, low_rank, update, quantiser"),
    "gamma": ("float64", "size of the noise; of an update the gamma of noise with the same norm"),
    "rank": ("int32", "rank of low-rank noise"),
    "quantiser": ("string", "nf4, fp4 or int8"),
    "pair": ("int32", "number of the antithetic pair, which is its seed"),
    "sign": ("int32", "1 or -1"),
    "norm": ("float64", "Frobenius norm of the perturbation as it is stored, over all perturbed tensors"),
    "relative": ("float64", "norm divided by the norm of the weights themselves"),
    "document": ("int32", "number of the document within its text"),
    "tokens": ("int64", "tokens scored in the document"),
    "nll_sum_nats": ("float64", "sum of their NLL, nats"),
}

NOISE: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    **PRETRAIN_TOKENS,
    **ARM,
    "corpus": ("string", "the text scored"),
    "kind": (
        "string",
        "gaussian, low_rank (of the same Frobenius norm in each tensor), update (a cell's own, rescaled), quantiser",
    ),
    "scale": (
        "string",
        "what gamma multiplies: initializer, published, fan_in, earliest_rung, or relative (the current weights)",
    ),
    "sigma": ("float64", "that standard deviation, as a root mean square over all perturbed weights"),
    "gamma": ("float64", "size of the noise; of an update the gamma of noise with the same norm"),
    "rank": ("int32", "rank of low-rank noise, or of an update that has one"),
    "quantiser": ("string", "nf4, fp4 (double quantised) or int8"),
    **UPDATE_CELL,
    "pairs": ("int32", "antithetic pairs, +eps and -eps; 0: a single perturbation"),
    "tensors": ("string", "which tensors were perturbed: blocks, embeddings, head"),
    "norm": ("float64", "Frobenius norm of the perturbation as it is stored, mean over the pairs"),
    "relative": ("float64", "norm divided by the norm of the weights themselves"),
    "tokens": ("int64", "tokens scored"),
    "documents": ("int64", "documents scored"),
    "clusters": ("int64", "files, papers or articles that they were cut from, which are resampled"),
    "nll_base": ("float64", "NLL of the base, nats per token"),
    "nll_perturbed": ("float64", "NLL of the perturbed base, mean over the pairs, nats per token"),
    "rise_nats": ("float64", "nll_perturbed - nll_base; positive: worse"),
    **interval("", "rise_nats, over clusters and, from three on, pairs"),
    "note": ("string", "why there is no interval, or what it leaves out"),
}

SHARPNESS: Columns = {
    **RECIPE,
    **MODEL,
    **REVISION,
    **PRETRAIN_TOKENS,
    **ARM,
    "corpus": ("string", "the text whose loss is measured"),
    "direction": ("string", "gradient: minus that of the base on the text; update: what the cell's training added"),
    **UPDATE_CELL,
    "step_lo": ("float64", "longest step found that does not raise the loss, as a Frobenius norm"),
    "step_hi": ("float64", "shortest step found beyond it that does"),
    "length": ("float64", "Frobenius norm of the gradient, or of the update as it was trained"),
    "sharpness": (
        "float64",
        "2 / critical step in units of length (for the gradient the critical sharpness of arXiv 2601.16979)",
    ),
    "passes": ("int32", "forward passes over the text that the search took"),
}
