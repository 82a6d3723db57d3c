"""The tables of a run, defined once: name, type and a sentence per column. Measures define their own beside them.

NLL is in nats per token, differences are after - before (positive: worse), `_lo` and `_hi` are the ends of 95 %
intervals from a paired bootstrap over documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from peftodyssey.store.columns import ARM, CELL, MODEL, PRETRAIN_TOKENS, RECIPE, Columns

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS: Columns = {  # of every cell; measures add their own
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
    "budget": ("string", "budget of the training as the recipe states it, such as 50k tokens"),
    "tokens": ("int64", "tokens trained on"),
    "steps": ("int64", "optimizer steps"),
    "trainable_params": ("int64", "number of trainable parameters"),
    "context": ("int32", "tokens of a scoring window"),
    "stride": ("int32", "tokens by which scoring windows advance"),
    "score_tokens": ("int64", "tokens that are scored of a split at most; empty: all of it"),
    "scoring": ("string", "name of the way of scoring: what is scored, and in which windows; 8 hex digits"),
    "setting": ("string", "cells that differ in nothing but their seed (and a tuned learning rate) have the same one"),
    "selected": ("bool", "whether this learning rate is the best on validation text, pooled over seeds"),
    "engine": ("string", "native, trl, or none where nothing was trained"),
    "multi_lora_size": ("int32", "cells that were trained together"),
    "seconds": ("float64", "wall time of training without scoring"),
    "tokens_per_second": ("float64", "tokens trained on per second of training"),
    "peak_memory_bytes": ("int64", "peak memory of the process (CPU) or of the allocator (GPU) during training"),
    "planned_memory_bytes": ("int64", "peak memory that the plan expected"),
    "status": ("string", "done, damaged, failed, stopped (early, by successive halving), pending"),
    "reason": ("string", "why it failed, or a warning such as too few documents"),
    "lr_edge": (
        "string",
        "why the selected learning rate may not be the best: low or high where it is that end of its grid, unmeasured "
        "where a neighbour in the grid was not trained to the end",
    ),
    "versions": ("string", "library versions with which the cell was trained"),
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

# Columns in which two runs of the same recipe on the same machine may differ.
MEASURED = ("seconds", "tokens_per_second", "peak_memory_bytes")

SORT_COLUMNS = (
    "model",
    "domain",
    "newline",
    "pretrain_tokens",
    "revision",
    "method",
    "rank",
    "label",
    "lr",
    "seed",
    "tokens",
    "recipe",
    "cell",
)


class HasTables(Protocol):
    """A measure as the store sees it."""

    @property
    def tables(self) -> Mapping[str, Columns]:
        """Its tables in the output directory, by file name."""

    @property
    def files(self) -> Mapping[str, Columns]:
        """Its tables in the folders of tasks, by file name."""

    @property
    def columns(self) -> Columns:
        """What it adds to the results."""


def tables_of(measures: Iterable[HasTables]) -> dict[str, Columns]:
    """The tables of an output directory by file name: the results with the columns of all measures, then theirs."""
    measures = tuple(measures)
    results = {name: column for measure in measures for name, column in measure.columns.items()}
    own = {name: columns for measure in measures for name, columns in measure.tables.items()}
    return {"results.parquet": {**RESULTS, **results}, **own}


def every_table(measures: Iterable[HasTables]) -> dict[str, Columns]:
    """`tables_of`, and the tables in the folders of cells, columns and tasks."""
    measures = tuple(measures)
    files = {name: columns for measure in measures for name, columns in measure.files.items()}
    return {**tables_of(measures), **files, "log.parquet": LOG, "nll.parquet": NLL}


def sort_key(row: Mapping[str, Any]) -> tuple[tuple[bool, Any], ...]:
    """Order of the rows of results; missing values come first."""
    return tuple(
        (row.get(name) is not None, row.get(name) if row.get(name) is not None else 0) for name in SORT_COLUMNS
    )


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


def markdown(tables: Mapping[str, Columns]) -> str:
    """The tables as Markdown, for `docs/tables.md`."""
    lines = [
        "# Tables",
        "",
        "Generated by `python -m peftodyssey.measures.registry tables > docs/tables.md`.",
    ]
    for name, columns in tables.items():
        lines += ["", f"## `{name}`", "", "| column | type | what it is |", "|---|---|---|"]
        lines += [f"| `{column}` | {kind} | {text} |" for column, (kind, text) in columns.items()]
    return "\n".join(lines) + "\n"
