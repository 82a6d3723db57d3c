"""Every table that is written, defined once: name, type and a sentence per column; docs/tables.md is generated from it.

NLL is in nats per token, differences are after - before (positive: worse), `_lo` and `_hi` are the ends of 95 %
intervals from a paired bootstrap over documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.store.columns import ARM, CELL, MODEL, PRETRAIN_TOKENS, RECIPE, Columns, interval
from peftodyssey.store.tables_noise import ANNEALING, NOISE, SENSITIVITY, SHARPNESS, SHIFTS
from peftodyssey.store.tables_similarity import CORRELATION, SIMILARITY
from peftodyssey.store.tables_tokens import CONCENTRATION, TERMS, TOKEN_BREAKDOWN, TOKEN_RANKS

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS: Columns = {
    **CELL,
    "label": ("string", "the method with the options that distinguish it from the others of its recipe"),
    **RECIPE,
    **MODEL,
    "revision": ("string", "revision of the base model"),
    **PRETRAIN_TOKENS,
    **ARM,
    "method": ("string", "constraint on the update: full, lora, qlora, ..."),
    "rank": ("int32", "rank of the adapter, where there is one"),
    "alpha": ("float64", "alpha of the adapter, where there is one"),
    "targets": ("string", "target modules of the adapter"),
    "quant": ("string", "quantisation of the frozen base: nf4, nf4+dq, fp4, int8, or empty"),
    "precision": ("string", "precision of the computation: fp32, bf16, fp16"),
    "optimizer": ("string", "optimizer and the precision of its state"),
    "lr": ("float64", "peak learning rate"),
    "domain": ("string", "the text adapted to"),
    "newline": ("string", "newline policy of the domain: keep, strip, collapse, mismatch"),
    "objective": ("string", "text: every token is trained; sft: answers only"),
    "seed": ("int64", "seed of data order, adapter initialisation and dropout"),
    "tokens": ("int64", "tokens trained on"),
    "steps": ("int64", "optimizer steps"),
    "trainable_params": ("int64", "number of trainable parameters"),
    "context": ("int32", "tokens of a scoring window"),
    "selected": ("bool", "whether this learning rate is the best on validation within its group"),
    "nll_before": ("float64", "test NLL of the unquantised base, nats per token"),
    "nll_quantised": ("float64", "test NLL of the quantised base where there is one, nats per token"),
    "nll_after": ("float64", "test NLL after adaptation, nats per token"),
    "valid_nll_before": ("float64", "validation NLL of the unquantised base, nats per token"),
    "valid_nll_after": ("float64", "validation NLL after adaptation, nats per token"),
    "ppl_before": ("float64", "exp(nll_before)"),
    "ppl_after": ("float64", "exp(nll_after)"),
    "delta_nll": ("float64", "nll_after - nll_before on test; positive: worse"),
    **interval("delta", "delta_nll"),
    "bpb_before": ("float64", "test bits per byte of the unquantised base"),
    "bpb_after": ("float64", "test bits per byte after adaptation"),
    "general_nll_before": ("float64", "NLL of the unquantised base on the general text, nats per token"),
    "general_nll_after": ("float64", "NLL after adaptation on the general text, nats per token"),
    "forgetting": ("float64", "general_nll_after - general_nll_before; positive: worse"),
    **interval("forgetting"),
    "engine": ("string", "native, trl, or none where nothing was trained"),
    "multi_lora_size": ("int32", "cells that were trained together"),
    "seconds": ("float64", "wall time of training without scoring"),
    "tokens_per_second": ("float64", "tokens trained on per second of training"),
    "peak_memory_bytes": ("int64", "peak memory of the process (CPU) or of the allocator (GPU) during training"),
    "planned_memory_bytes": ("int64", "peak memory that the plan expected"),
    "status": ("string", "done, failed, stopped (early, by successive halving), pending"),
    "reason": ("string", "why it failed, or a warning such as too few documents"),
    "lr_edge": ("string", "low or high where the selected learning rate is at that end of its grid"),
    "test_tokens": ("int64", "tokens scored on test"),
    "test_documents": ("int64", "documents scored on test"),
    "general_documents": ("int64", "documents scored on the general text"),
    "versions": ("string", "library versions with which the cell was trained"),
    "task": (
        "string",
        "the multiple-choice task of the next columns, where the recipe has one; several are in tasks.parquet",
    ),
    "acc_before": ("float64", "share of the task's prompts whose most likely choice is right, unquantised base"),
    "acc_after": ("float64", "the same after adaptation"),
    "acc_delta": ("float64", "acc_after - acc_before; positive: better"),
    **interval("acc", "acc_delta"),
    "acc_norm_before": ("float64", "accuracy with likelihoods per byte of the choice, unquantised base"),
    "acc_norm_after": ("float64", "the same after adaptation"),
    "l2_sp": ("float64", "L2-SP coefficient that pulls weights to their start, where there is one"),
    "norm_ball": ("float64", "largest change of a matrix relative to its norm, where it is bounded"),
    "replay": (
        "float64",
        "share of general text among the trained tokens, where there is some; it counts in tokens, not in the budget",
    ),
    "early_stop": (
        "float64",
        "rise of the NLL of general text at which training stops, nats per token, where it is bounded",
    ),
    "stopped_at_step": (
        "int64",
        "step at which that bound was exceeded; steps and tokens are those of the weights kept",
    ),
    "update_norm_relative": (
        "float64",
        "Frobenius norm of the update over that of all weights of the base, where geometry was measured",
    ),
    "effective_rank_mean": ("float64", "mean effective rank of the updates of the decomposed matrices"),
    "intruder_dimensions": (
        "float64",
        "intruder dimensions among the 10 strongest of a tuned matrix, mean over the decomposed matrices",
    ),
    "decomposed_layers": (
        "string",
        "number of decoder layers whose matrices were decomposed, of all: of a large model only a sample",
    ),
}

LEARNING_CURVES: Columns = {
    **CELL,
    "tokens_seen": ("int64", "tokens trained on so far"),
    "step": ("int64", "optimizer steps so far"),
    "corpus": ("string", "name of the text scored"),
    "split": ("string", "valid or test"),
    "nll_nats": ("float64", "mean NLL there, nats per token"),
    "tokens": ("int64", "tokens scored"),
}

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

LOG: Columns = {
    "step": ("int64", "optimizer steps done"),
    "tokens": ("int64", "tokens trained on so far"),
    "loss_nats": ("float64", "training loss of the step, nats per trained token"),
    "lr": ("float64", "learning rate of the step"),
    "grad_norm": ("float64", "global gradient norm before clipping"),
    "seconds": ("float64", "wall seconds since training began"),
}

NLL: Columns = {
    "nll_nats": ("float32", "negative log-likelihood of the token, nats; NaN where it is not scored"),
    "rank": ("int32", "rank of the true token among the vocabulary, from 1; -1 where not scored"),
}

CHOICES: Columns = {
    "example": ("int32", "number of the prompt, from 0"),
    "choice": ("int32", "number of the choice, from 0"),
    "loglik_nats": ("float64", "log-likelihood of the choice given its prompt, nats, summed over its tokens"),
    "tokens": ("int32", "tokens of the choice"),
    "bytes": ("int32", "UTF-8 bytes of the choice without the white space around it"),
    "is_answer": ("bool", "whether it is the right choice of its prompt"),
}

TASKS: Columns = {
    **CELL,
    **RECIPE,
    "task": ("string", "name of the task"),
    "examples": ("int64", "number of prompts"),
    "chance": ("float64", "accuracy of random guessing"),
    "acc_before": ("float64", "share of the prompts whose most likely choice is right, unquantised base"),
    **interval("acc_before", "acc_before (Wilson)"),
    "acc_quantised": ("float64", "the same under the quantised base where there is one"),
    "acc_after": ("float64", "the same after adaptation"),
    **interval("acc_after", "acc_after (Wilson)"),
    "acc_delta": ("float64", "acc_after - acc_before; positive: better"),
    **interval("acc", "acc_delta, paired by prompt (Tango)"),
    "acc_won": ("int64", "prompts answered right only after adaptation"),
    "acc_lost": ("int64", "prompts answered right only by the base"),
    "acc_p": ("float64", "exact p-value of McNemar's test"),
    "acc_norm_before": ("float64", "accuracy with likelihoods per byte of the choice, unquantised base"),
    "acc_norm_after": ("float64", "the same after adaptation"),
    "acc_norm_delta": ("float64", "acc_norm_after - acc_norm_before; positive: better"),
    **interval("acc_norm", "acc_norm_delta, paired by prompt (Tango)"),
    "truncated": ("int64", "choices whose prompt was truncated at its beginning to the model's positions"),
}

GEOMETRY: Columns = {
    **CELL,
    "recipe": ("string", "name of the recipe that asked for the row; empty in the cell's own table"),
    "matrix": ("string", "name of the weight in the base; weights that did not change have no row"),
    "rows": ("int64", "outputs of a matrix, length of a vector"),
    "columns": ("int64", "inputs of a matrix; empty for a vector"),
    "update_norm": ("float64", "Frobenius norm of the update"),
    "base_norm": ("float64", "Frobenius norm of the base's weight, dequantised where it is quantised"),
    "relative_norm": ("float64", "update_norm / base_norm"),
    "spectral_norm": (
        "float64",
        "largest singular value of the update; this and the next columns only for linear layers of decoder layers",
    ),
    "stable_rank": ("float64", "squared Frobenius norm of the update divided by its squared spectral norm"),
    "effective_rank": ("float64", "exponential of the entropy of the update's singular values, normalised to sum 1"),
    "angle_mean_degrees": (
        "float64",
        "mean principal angle between the spans of the 10 strongest left singular vectors, base and tuned",
    ),
    "angle_largest_degrees": ("float64", "largest of these angles"),
    "intruders": (
        "int32",
        "of the tuned matrix's 10 strongest left singular vectors, those with |cosine| < 0.5 to each one of the base's",
    ),
}

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

# Columns in which two runs of the same recipe on the same machine may differ.
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
