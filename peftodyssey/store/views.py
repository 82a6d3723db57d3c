"""What SQL sees of a run: each view with its columns and a sentence, and example queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.store import layout, tables

RUN_COLUMN = {"run": ("string", "name of the output directory")}
CELLS: tables.Columns = {
    "cell": ("string", "first 16 hex digits of the cell's identity"),
    "folder": ("string", "where the cell lies below the output directory"),
    "status": ("string", "done, damaged, failed, stopped (early, by successive halving), pending"),
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
# Queries that `query DIR NAME` runs; the name of a view shows all of it.
NAMED = {
    "best": "select label, domain, seed, lr, delta_nll, delta_lo, delta_hi, forgetting, forgetting_lo, forgetting_hi "
    "from results where selected order by domain, delta_nll",
    "cost": "select label, domain, seed, lr, seconds, multi_lora_size, tokens_per_second, peak_memory_bytes "
    "from results where status = 'done' order by all",
    "missing": "select label, domain, seed, lr, status, reason from results where status <> 'done' order by all",
    "versions": "select distinct recipe, versions from results where versions is not null order by all",
}
N_EXAMPLES = 10
# Queries that are offered where their views have rows: first these, then those of measures, then the others.
EXAMPLES = (
    "select label, domain, lr, delta_nll, delta_lo, delta_hi, forgetting from results where selected order by all",
    "select label, domain, seed, seconds, tokens_per_second, peak_memory_bytes from results",
    "select class, count(*) as n, sum(delta) as nats from tokens where split = 'test' group by class order by nats",
    "select text, sum(delta) as nats from tokens where split = 'test' group by text order by nats desc limit 20",
    "select label, text, nll_before, nll_after from tokens where split = 'test' order by delta desc limit 20",
    "select label, document, avg(delta) as d from tokens where split = 'general' group by all order by d desc limit 20",
)
MORE_EXAMPLES = (
    "select label, lr, nll_after, valid_nll_after from results order by valid_nll_after",
    "select folder, status from cells",
    "select label, delta_storage, delta_nll - delta_storage as training from results where nll_quantised is not null",
    "select rank, lr, avg(delta_nll) as change from results where rank is not null group by all order by rank, lr",
)


class HasViews(tables.HasTables, Protocol):
    """A measure as SQL sees it."""

    @property
    def views(self) -> Mapping[str, str]:
        """A sentence for each of its tables."""

    @property
    def computed(self) -> Mapping[str, View]:
        """Further views, by SQL over its tables."""

    @property
    def examples(self) -> Sequence[str]:
        """Queries that are offered."""


@dataclass(frozen=True)
class View:
    """One view: `file` is the table in the output directory that it shows, or `sql` computes it from those it `reads`.

    Neither is there for `cells` and `tokens`.
    """

    columns: tables.Columns
    sentence: str
    file: str | None = None
    sql: str | None = None
    reads: Sequence[str] = ()


@dataclass(frozen=True)
class Views:
    """The views by name, the example queries in the order in which they are offered, and those that have a name."""

    by_name: Mapping[str, View]
    examples: Sequence[str]
    named: Mapping[str, str]  # SQL by name, beside the names of the views
    scoring: str | None = None  # the way of scoring whose tables they show; None: the newest


def views_of(measures: Iterable[HasViews], scoring: str | None = None) -> Views:
    """A view for each table, named as its file, then `cells` and `tokens`; `scoring` as in `Views`."""
    measures = tuple(measures)
    sentences = {layout.RESULTS: "one row per cell: coordinates, losses, changes with intervals, cost"}
    sentences |= {name: text for measure in measures for name, text in measure.views.items()}
    by_name = {
        PurePath(file).stem: View({**RUN_COLUMN, **columns}, sentences[file], file)
        for file, columns in tables.tables_of(measures).items()
    }
    by_name |= {name: view for measure in measures for name, view in measure.computed.items()}
    by_name["cells"] = View({**RUN_COLUMN, **CELLS}, "state and manifest of every cell")
    by_name["tokens"] = View(
        {**RUN_COLUMN, **TOKENS}, "one row per scored token of every cell: text, loss and rank before and after"
    )
    examples = (*EXAMPLES, *(sql for measure in measures for sql in measure.examples), *MORE_EXAMPLES)
    return Views(by_name, examples, NAMED, scoring)
