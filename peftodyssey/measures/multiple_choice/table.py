"""The tables of multiple-choice tasks, and what they add to the results."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, RECIPE, Columns, interval

TABLE = "tasks.parquet"
CHOICES_FILE = "choices.parquet"

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

RESULTS: Columns = {
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
}
