"""What SQL sees of a run: each view with its columns and a sentence, and example queries."""

from __future__ import annotations

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.store import tables

RUN_COLUMN = {"run": ("string", "name of the output directory")}
CELLS: tables.Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "folder": ("string", "where the cell lies below the output directory"),
    "status": ("string", "done, failed, stopped (early, by successive halving), pending"),
    "manifest": ("string", "the cell's manifest as JSON; DuckDB reads into it: manifest->>'$.facts.seconds'"),
}
TOKENS: tables.Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "label": ("string", "the method with the options that tell it from the others of its recipe"),
    "method": ("string", "constraint on the update: full, lora, qlora, ..."),
    "lr": ("float64", "peak learning rate"),
    "seed": ("int64", "seed of the cell"),
    "domain": ("string", "the text scored"),
    "split": ("string", "test, valid, general, or transfer (another domain of the recipe)"),
    "document": ("int32", "number of the document within its text"),
    "position": ("int32", "number of the token within its document"),
    "token": ("int32", "id of the token"),
    "text": ("string", "the characters that the token stands for"),
    "class": ("string", "class of the token: " + ", ".join(TOKEN_CLASSES)),
    "nll_before": ("float32", "NLL of the unquantised base, nats"),
    "nll_after": ("float32", "NLL after adaptation, nats"),
    "delta": ("float32", "nll_after - nll_before, nats; positive: worse"),
    "rank_before": (
        "int32",
        "rank of the token among the vocabulary under the unquantised base, from 1; -1: not scored",
    ),
    "rank_after": ("int32", "its rank after adaptation"),
}
VIEWS: dict[str, tables.Columns] = {
    "results": {**RUN_COLUMN, **tables.RESULTS},
    "learning_curves": {**RUN_COLUMN, **tables.LEARNING_CURVES},
    "token_breakdown": {**RUN_COLUMN, **tables.TOKEN_BREAKDOWN},
    "concentration": {**RUN_COLUMN, **tables.CONCENTRATION},
    "terms": {**RUN_COLUMN, **tables.TERMS},
    "token_ranks": {**RUN_COLUMN, **tables.TOKEN_RANKS},
    "transfer": {**RUN_COLUMN, **tables.TRANSFER},
    "tasks": {**RUN_COLUMN, **tables.TASKS},
    "wise_ft": {**RUN_COLUMN, **tables.WISE_FT},
    "noise": {**RUN_COLUMN, **tables.NOISE},
    "sensitivity": {**RUN_COLUMN, **tables.SENSITIVITY},
    "annealing": {**RUN_COLUMN, **tables.ANNEALING},
    "sharpness": {**RUN_COLUMN, **tables.SHARPNESS},
    "geometry": {**RUN_COLUMN, **tables.GEOMETRY},
    "similarity": {**RUN_COLUMN, **tables.SIMILARITY},
    "correlation": {**RUN_COLUMN, **tables.CORRELATION},
    "cells": {**RUN_COLUMN, **CELLS},
    "tokens": {**RUN_COLUMN, **TOKENS},
}


SENTENCES = {
    "results": "one row per cell: coordinates, losses, changes with intervals, cost",
    "learning_curves": "losses on held-out text during training",
    "token_breakdown": "the change of each cell by class, position, frequency, surprisal and token type",
    "concentration": "how few tokens carry the rise",
    "terms": "domain terms",
    "token_ranks": "rank of the true token, before and after",
    "transfer": "every cell on every domain",
    "tasks": "accuracy on multiple-choice tasks, before and after",
    "wise_ft": "shares of the finished update",
    "noise": "loss under weight noise",
    "sensitivity": "slopes along a ladder of pretraining checkpoints",
    "annealing": "differences between arms of a ladder",
    "sharpness": "critical steps",
    "geometry": "norm, rank and angles of the update of every weight",
    "similarity": "similarity of each text to the pretraining text",
    "correlation": "correlation of the change with similarity",
    "cells": "state and manifest of every cell",
    "tokens": "one row per scored token of every cell: text, loss and rank before and after",
}
# Examples in the order in which they are offered; each is shown where the views that it reads have rows.
EXAMPLES = (
    "select label, domain, lr, delta_nll, delta_lo, delta_hi, forgetting from results where selected order by all",
    "select label, domain, seed, seconds, tokens_per_second, peak_memory_bytes from results",
    "select class, count(*) as n, sum(delta) as nats from tokens where split = 'test' group by class order by nats",
    "select text, sum(delta) as nats from tokens where split = 'test' group by text order by nats desc limit 20",
    "select label, text, nll_before, nll_after from tokens where split = 'test' order by delta desc limit 20",
    "select label, document, avg(delta) as d from tokens where split = 'general' group by all order by d desc limit 20",
    "select cell, name, tokens, part, part_lo, part_hi from token_breakdown where factor = 'class' order by part",
    "select cell, step, corpus, split, nll_nats from learning_curves order by cell, step",
    "select label, lr, nll_after, valid_nll_after from results order by valid_nll_after",
    "select folder, status from cells",
    "select label, nll_quantised - nll_before as storage_cost from results where nll_quantised is not null",
    "select rank, lr, avg(delta_nll) as change from results where rank is not null group by all order by rank, lr",
    "select cell, positions, median_before, median_after from token_ranks",
    "select trained_on, scored_on, avg(delta_nll) as change from transfer group by all",
    "select kind, gamma, avg(rise_nats) as rise from noise group by all order by kind, gamma",
    "select cell, matrix, relative_norm, effective_rank from geometry order by relative_norm desc limit 20",
)
N_EXAMPLES = 10
