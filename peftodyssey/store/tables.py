"""Every table that is written, defined once: name, type and a sentence per column. Documentation is made of this.

Columns are added to, never renamed. NLL in nats per token, differences are after - before (positive: worse),
`_lo` and `_hi` the ends of 95 % intervals from a paired bootstrap over documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.store.tables_noise import ANNEALING, NOISE, SENSITIVITY, SHARPNESS, SHIFTS
from peftodyssey.store.tables_similarity import CORRELATION, SIMILARITY

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, tuple[str, str]]

RESULTS: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "label": ("string", "the method with the options that tell it from the others of its recipe"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "model": ("string", "name of the base model"),
    "revision": ("string", "revision of the base model, or the default one"),
    "pretrain_tokens": ("int64", "tokens that the base was pretrained on, where known"),
    "arm": ("string", "ladder arm of the base (trunk, annealed), where known"),
    "method": ("string", "constraint on the update: full, lora, qlora, ..."),
    "rank": ("int32", "rank of the adapter, where there is one"),
    "alpha": ("float64", "alpha of the adapter, where there is one"),
    "targets": ("string", "which modules are adapted"),
    "quant": ("string", "storage of the frozen base: nf4, nf4+dq, fp4, int8, or empty"),
    "precision": ("string", "precision of the arithmetic: fp32, bf16, fp16"),
    "optimizer": ("string", "optimiser and the precision of its state"),
    "lr": ("float64", "peak learning rate"),
    "domain": ("string", "the text adapted to"),
    "newline": ("string", "newline policy of the domain: keep, strip, collapse, mismatch"),
    "objective": ("string", "text: every token is trained; sft: completions only"),
    "seed": ("int64", "seed of data order, adapter start and dropout"),
    "tokens": ("int64", "tokens trained on"),
    "steps": ("int64", "optimiser steps"),
    "trainable_params": ("int64", "numbers that were trained"),
    "context": ("int32", "tokens of a scoring window"),
    "selected": ("bool", "this learning rate was best on validation within its group"),
    "nll_before": ("float64", "test NLL of the unquantised base, nats per token"),
    "nll_quantised": ("float64", "test NLL of the quantised base where there is one, nats per token"),
    "nll_after": ("float64", "test NLL after adaptation, nats per token"),
    "valid_nll_before": ("float64", "validation NLL of the unquantised base, nats per token"),
    "valid_nll_after": ("float64", "validation NLL after adaptation, nats per token"),
    "ppl_before": ("float64", "exp(nll_before)"),
    "ppl_after": ("float64", "exp(nll_after)"),
    "delta_nll": ("float64", "nll_after - nll_before on test; positive: worse"),
    "delta_lo": ("float64", "lower end of the 95 % interval of delta_nll"),
    "delta_hi": ("float64", "upper end of the 95 % interval of delta_nll"),
    "bpb_before": ("float64", "test bits per byte of the unquantised base"),
    "bpb_after": ("float64", "test bits per byte after adaptation"),
    "general_nll_before": ("float64", "NLL of the unquantised base on the general text, nats per token"),
    "general_nll_after": ("float64", "NLL after adaptation on the general text, nats per token"),
    "forgetting": ("float64", "general_nll_after - general_nll_before; positive: worse"),
    "forgetting_lo": ("float64", "lower end of the 95 % interval of forgetting"),
    "forgetting_hi": ("float64", "upper end of the 95 % interval of forgetting"),
    "engine": ("string", "native, trl, or none where nothing was trained"),
    "multi_lora_size": ("int32", "cells that were trained together"),
    "seconds": ("float64", "wall time of training, scoring left out"),
    "tokens_per_second": ("float64", "tokens trained on per second of training"),
    "peak_memory_bytes": ("int64", "highest memory of the process (CPU) or of the allocator (GPU) while training"),
    "planned_memory_bytes": ("int64", "what the plan expected"),
    "status": ("string", "done, failed, stopped (early, by successive halving), pending"),
    "reason": ("string", "why it failed, or a remark such as too few documents"),
    "lr_edge": ("string", "low or high where the selected learning rate is the end of its grid"),
    "test_tokens": ("int64", "tokens scored on test"),
    "test_documents": ("int64", "documents scored on test"),
    "general_documents": ("int64", "documents scored on the general text"),
    "versions": ("string", "library versions that trained the cell"),
    "task": ("string", "the task whose accuracy follows, where the recipe has one; several are in tasks.parquet"),
    "acc_before": ("float64", "share of the task's prompts whose likeliest choice is right, unquantised base"),
    "acc_after": ("float64", "the same after adaptation"),
    "acc_delta": ("float64", "acc_after - acc_before; positive: better"),
    "acc_lo": ("float64", "lower end of the 95 % interval of acc_delta"),
    "acc_hi": ("float64", "upper end of the 95 % interval of acc_delta"),
    "acc_norm_before": ("float64", "accuracy with likelihoods per byte of the choice, unquantised base"),
    "acc_norm_after": ("float64", "the same after adaptation"),
    "l2_sp": ("float64", "pull of the update to its start, where there is one"),
    "norm_ball": ("float64", "longest change of a matrix as a share of its norm, where it is bounded"),
    "replay": (
        "float64",
        "share of general text among the trained tokens, where there is some; it counts in tokens, not in the budget",
    ),
    "early_stop": (
        "float64",
        "how far the NLL of general text could rise before training ended, nats per token, where it was bounded",
    ),
    "stopped_at_step": (
        "int64",
        "where general text had become too much worse; steps and tokens are those of the weights kept",
    ),
    "update_norm_relative": (
        "float64",
        "Frobenius norm of the update over that of all weights of the base, where geometry was measured",
    ),
    "effective_rank_mean": ("float64", "mean effective rank of the updates of the matrices that were decomposed"),
    "intruder_dimensions": (
        "float64",
        "intruder dimensions among the 10 strongest of a tuned matrix, mean over those that were decomposed",
    ),
    "decomposed_layers": ("string", "decoder layers whose matrices were decomposed, of all: a sample of a large model"),
}

LEARNING_CURVES: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "tokens_seen": ("int64", "tokens trained on so far"),
    "step": ("int64", "optimiser steps so far"),
    "corpus": ("string", "name of the text scored"),
    "split": ("string", "valid or test"),
    "nll_nats": ("float64", "mean NLL there, nats per token"),
    "tokens": ("int64", "tokens scored"),
}

WISE_FT: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "share": (
        "float64",
        "share of the finished update that the scored weights have: 0 is the base, 1 the adapted model (WiSE-FT)",
    ),
    "nll": ("float64", "test NLL, nats per token"),
    "valid_nll": ("float64", "validation NLL, nats per token"),
    "delta_nll": ("float64", "nll minus that of the unquantised base; positive: worse"),
    "delta_lo": ("float64", "lower end of the 95 % interval of delta_nll"),
    "delta_hi": ("float64", "upper end of the 95 % interval of delta_nll"),
    "general_nll": ("float64", "NLL on the general text, nats per token"),
    "forgetting": ("float64", "general_nll minus that of the unquantised base; positive: worse"),
    "forgetting_lo": ("float64", "lower end of the 95 % interval of forgetting"),
    "forgetting_hi": ("float64", "upper end of the 95 % interval of forgetting"),
}

LOG: Columns = {
    "step": ("int64", "optimiser steps done"),
    "tokens": ("int64", "tokens trained on so far"),
    "loss_nats": ("float64", "training loss of the step, nats per trained token"),
    "lr": ("float64", "learning rate of the step"),
    "grad_norm": ("float64", "global gradient norm before clipping"),
    "seconds": ("float64", "wall seconds since training began"),
}

NLL: Columns = {
    "nll_nats": ("float32", "negative log-likelihood of the token, nats; NaN where the policy does not score it"),
    "rank": ("int32", "rank of the true token among the vocabulary, from 1; -1 where not scored"),
}

TOKEN_BREAKDOWN: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "factor": ("string", "how the scored tokens of test are parted: class, position, frequency, surprisal, token"),
    "place": ("int32", "order of the group within its factor"),
    "name": ("string", "the group; under token the characters that the token stands for"),
    "token": ("int32", "id of the token, under token only"),
    "tokens": ("int64", "scored tokens of the group"),
    "nll_before": ("float64", "mean NLL of the group under the unquantised base, nats per token"),
    "nll_after": ("float64", "mean NLL of the group after adaptation, nats per token"),
    "sum_nats": ("float64", "change summed over the group, nats; positive: worse"),
    "share": ("float64", "sum_nats as a share of the whole change; those of one factor add up to 1"),
    "part": ("float64", "sum_nats per scored token of the whole text; those of one factor add up to delta_nll"),
    "part_lo": ("float64", "lower end of the 95 % interval of part; none under token"),
    "part_hi": ("float64", "upper end of the 95 % interval of part; none under token"),
}

CONCENTRATION: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "unit": ("string", "types: token types, their changes summed; tokens: single tokens of test"),
    "units": ("int64", "how many of them are scored"),
    "rise_nats": ("float64", "sum of the changes above 0, nats"),
    "fall_nats": ("float64", "sum of the changes below 0, nats"),
    "share_for_50pct": ("float64", "smallest share of the units that carries half of the rise"),
    "share_for_90pct": ("float64", "smallest share of the units that carries 90 % of the rise"),
    "gini": ("float64", "Gini coefficient of the rises: 0 for evenly spread, towards 1 for a single unit"),
}

TERMS: Columns = {
    "recipe": ("string", "name of the recipe that measures tokens on the domain"),
    "domain": ("string", "the text adapted to"),
    "place": ("int32", "order of the term, the surest first"),
    "word": ("string", "the word, compared without case"),
    "log_odds": ("float64", "log-odds ratio of the word in the domain against general text, with an informative prior"),
    "z": ("float64", "log_odds over its standard deviation"),
    "domain_count": ("int64", "occurrences in the training text that was counted"),
    "general_count": ("int64", "occurrences in the general text"),
}

TOKEN_RANKS: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "positions": ("string", "where on test: domain_term, or all"),
    "tokens": ("int64", "scored tokens there"),
    "median_before": ("float64", "median rank of the true token under the unquantised base, from 1"),
    "median_after": ("float64", "median rank after adaptation"),
    "trimmed_before": ("float64", "mean rank without 10 % at either end, under the unquantised base"),
    "trimmed_after": ("float64", "the same after adaptation"),
    "recall_1_before": ("float64", "share of the tokens that the unquantised base ranks first"),
    "recall_1_after": ("float64", "the same after adaptation"),
    "recall_10_before": ("float64", "share that the unquantised base ranks among the first 10"),
    "recall_10_after": ("float64", "the same after adaptation"),
    "recall_100_before": ("float64", "share that the unquantised base ranks among the first 100"),
    "recall_100_after": ("float64", "the same after adaptation"),
    "recall_10_delta": ("float64", "recall_10_after - recall_10_before; positive: better"),
    "recall_10_lo": ("float64", "lower end of the 95 % interval of recall_10_delta"),
    "recall_10_hi": ("float64", "upper end of the 95 % interval of recall_10_delta"),
}

CHOICES: Columns = {
    "example": ("int32", "number of the prompt, from 0"),
    "choice": ("int32", "number of the choice, from 0"),
    "loglik_nats": ("float64", "log-likelihood of the choice given its prompt, nats, summed over its tokens"),
    "tokens": ("int32", "tokens of the choice"),
    "bytes": ("int32", "UTF-8 bytes of the choice without the white space around it"),
    "is_answer": ("bool", "the right choice of its prompt"),
}

TASKS: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell"),
    "task": ("string", "name of the task"),
    "examples": ("int64", "prompts with choices"),
    "chance": ("float64", "accuracy of guessing"),
    "acc_before": ("float64", "share of the prompts whose likeliest choice is right, unquantised base"),
    "acc_before_lo": ("float64", "lower end of its 95 % interval (Wilson)"),
    "acc_before_hi": ("float64", "upper end of its 95 % interval"),
    "acc_quantised": ("float64", "the same under the quantised base where there is one"),
    "acc_after": ("float64", "the same after adaptation"),
    "acc_after_lo": ("float64", "lower end of its 95 % interval"),
    "acc_after_hi": ("float64", "upper end of its 95 % interval"),
    "acc_delta": ("float64", "acc_after - acc_before; positive: better"),
    "acc_lo": ("float64", "lower end of the 95 % interval of acc_delta, paired by prompt (Tango)"),
    "acc_hi": ("float64", "upper end of the 95 % interval of acc_delta"),
    "acc_won": ("int64", "prompts answered rightly after adaptation alone"),
    "acc_lost": ("int64", "prompts answered rightly by the base alone"),
    "acc_p": ("float64", "exact p-value of McNemar's test"),
    "acc_norm_before": ("float64", "accuracy with likelihoods per byte of the choice, unquantised base"),
    "acc_norm_after": ("float64", "the same after adaptation"),
    "acc_norm_delta": ("float64", "acc_norm_after - acc_norm_before; positive: better"),
    "acc_norm_lo": ("float64", "lower end of the 95 % interval of acc_norm_delta, paired by prompt (Tango)"),
    "acc_norm_hi": ("float64", "upper end of the 95 % interval of acc_norm_delta"),
    "truncated": ("int64", "choices whose prompt is longer than the model and lost its beginning"),
}

GEOMETRY: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that asked for the cell; in the cell's own table empty"),
    "matrix": ("string", "the weight that moved, by its name in the base; weights that did not move have no row"),
    "rows": ("int64", "outputs of a matrix, numbers of a vector"),
    "columns": ("int64", "inputs of a matrix; empty for a vector"),
    "update_norm": ("float64", "Frobenius norm of the update"),
    "base_norm": ("float64", "Frobenius norm of the base's weight, a quantised one as what its storage stands for"),
    "relative_norm": ("float64", "update_norm / base_norm"),
    "spectral_norm": (
        "float64",
        "largest singular value of the update; this and what follows for linear maps of decoder layers only",
    ),
    "stable_rank": ("float64", "squared Frobenius norm of the update over its squared spectral norm"),
    "effective_rank": ("float64", "exponential of the entropy of the update's singular values over their sum"),
    "angle_mean_degrees": (
        "float64",
        "mean principal angle between the spans of the 10 strongest left singular vectors, base and tuned",
    ),
    "angle_largest_degrees": ("float64", "largest of these angles"),
    "intruders": (
        "int32",
        (
            "of the 10 strongest left singular vectors of the tuned matrix, those with an absolute cosine below 0.5 to "
            "each one of the base's"
        ),
    ),
}

TRANSFER: Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "recipe": ("string", "name of the recipe that measures transfer"),
    "trained_on": ("string", "the text adapted to, with its newline policy where that is not keep"),
    "scored_on": ("string", "the text whose test part is scored, with the newline policy that it is scored under"),
    "in_domain": ("bool", "scored on the text adapted to"),
    "tokens": ("int64", "tokens scored"),
    "nll_before": ("float64", "NLL of the unquantised base there, nats per token"),
    "nll_after": ("float64", "NLL there after adaptation, nats per token"),
    "delta_nll": ("float64", "nll_after - nll_before; positive: worse"),
    "delta_lo": ("float64", "lower end of the 95 % interval of delta_nll"),
    "delta_hi": ("float64", "upper end of the 95 % interval of delta_nll"),
}

# What two runs of the same recipe on the same machine may differ in.
MEASURED = ("seconds", "tokens_per_second", "peak_memory_bytes")

TABLES: dict[str, Columns] = {
    "results.parquet": RESULTS,
    "learning_curves.parquet": LEARNING_CURVES,
    "token_breakdown.parquet": TOKEN_BREAKDOWN,
    "concentration.parquet": CONCENTRATION,
    "terms.parquet": TERMS,
    "token_ranks.parquet": TOKEN_RANKS,
    "tasks.parquet": TASKS,
    "wise_ft.parquet": WISE_FT,
    "similarity.parquet": SIMILARITY,
    "correlation.parquet": CORRELATION,
    "noise.parquet": NOISE,
    "sensitivity.parquet": SENSITIVITY,
    "annealing.parquet": ANNEALING,
    "sharpness.parquet": SHARPNESS,
    "shifts.parquet": SHIFTS,
    "geometry.parquet": GEOMETRY,
    "transfer.parquet": TRANSFER,
    "log.parquet": LOG,
    "nll.parquet": NLL,
    "choices.parquet": CHOICES,
}


def schema(columns: Columns) -> pa.Schema:
    """The pyarrow schema of a table, each column's sentence in its field's metadata."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
    }
    return pa.schema([pa.field(name, types[kind], metadata={"doc": text}) for name, (kind, text) in columns.items()])


def markdown() -> str:
    """The tables as Markdown, for `docs/tables.md`."""
    lines = ["# Tables", "", "Generated from `peftodyssey/store/tables.py`."]
    for name, columns in TABLES.items():
        lines += ["", f"## `{name}`", "", "| column | type | what it is |", "|---|---|---|"]
        lines += [f"| `{column}` | {kind} | {text} |" for column, (kind, text) in columns.items()]
    return "\n".join(lines) + "\n"
