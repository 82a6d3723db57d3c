"""The table of losses summed over clusters, and the view of paired differences that is computed from it."""

from __future__ import annotations

from peftodyssey.store.columns import CELL, RECIPE, Columns
from peftodyssey.store.views import RUN_COLUMN, View

CLUSTERS_TABLE = "cluster_sums.parquet"
CLUSTER_SUMS: Columns = {
    **CELL,
    **RECIPE,
    "split": ("string", "test, or general: all general texts together"),
    "text": ("string", "the index of the text, or of the general texts; cells of one text can be paired"),
    "cluster": ("int32", "number of the cluster: file, paper, article or document"),
    "tokens": ("int64", "scored tokens of the cluster"),
    "nll_before": ("float64", "NLL of the unquantised base, summed over them, nats"),
    "nll_after": ("float64", "NLL after adaptation, summed over them, nats"),
    "quantile": (
        "float64",
        "Student's t of a 95 % interval over these clusters; empty with fewer than 30 effective ones",
    ),
}
DIFFERENCES = View(
    {
        **RUN_COLUMN,
        **CELL,
        **RECIPE,
        "minus": ("string", "the cell that is subtracted, or base: the unquantised base of the cell"),
        "split": ("string", "test, or general: all general texts together"),
        "estimate": ("float64", "NLL of the cell after adaptation - that of `minus`, nats per token; negative: better"),
        "lo": ("float64", "lower end of its 95 % interval over clusters; empty with too few of them"),
        "hi": ("float64", "upper end of it"),
        "clusters": ("int64", "clusters of the text"),
        "tokens": ("int64", "scored tokens"),
    },
    "each cell minus its base and minus every other cell that is scored on the same text, paired by token",
    sql="""
with sums as (select * from cluster_sums),
pairs as (
  select run, cell, recipe, 'base' as minus, split, text, tokens as w, nll_after - nll_before as d, quantile from sums
  union all
  select a.run, a.cell, a.recipe, b.cell, a.split, a.text, a.tokens, a.nll_after - b.nll_after, a.quantile
  from sums a join (select distinct * exclude (recipe) from sums) b
    on a.run = b.run and a.split = b.split and a.text = b.text and a.cluster = b.cluster and a.tokens = b.tokens
  where a.cell <> b.cell
),
ratios as (
  select *, sum(d) over same / sum(w) over same as estimate from pairs
  window same as (partition by run, cell, recipe, minus, split, text)
),
errors as (
  select run, cell, recipe, minus, split, any_value(estimate) as estimate,
    any_value(quantile) * sqrt(count(*) / (count(*) - 1) * sum((d - estimate * w) ** 2)) / sum(w) as half,
    count(*) as clusters, sum(w)::bigint as tokens
  from ratios group by run, cell, recipe, minus, split, text
)
select run, cell, recipe, minus, split, estimate, estimate - half as lo, estimate + half as hi, clusters, tokens
from errors
""",
    reads=("cluster_sums",),
)
