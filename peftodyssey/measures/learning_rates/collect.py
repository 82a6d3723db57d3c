"""Collects `learning_rates.parquet`: the optimum of every tuned learning rate on validation text, pooled over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftodyssey.stats.bootstrap import MIN_DOCUMENTS
from peftodyssey.stats.cluster_resampling import ClusterSums, resampled_means, sums_by_cluster
from peftodyssey.stats.lr_optimum import LrOptimum, lr_optimum
from peftodyssey.stats.lr_selection import HIGH, LOW, Candidate, best_rate, edge, neighbours, pooled
from peftodyssey.store import layout
from peftodyssey.store.stored_run import Cell, StoredRun, document_clusters

Row = dict[str, Any]
SETTING = ("model", "revision", "domain", "newline", "objective", "context", "score_tokens", "budget")


def rows(run: StoredRun, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """One row for each group of cells that differ in seed and tuned rate only, in the order of the cells."""
    results = tables[layout.RESULTS]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in run.cells:
        if cell["coordinates"].get("lr") is not None and cell["scores"].get("valid"):
            groups.setdefault((cell["recipe"], cell["group"]), []).append(cell)
    tuned = (cells for cells in groups.values() if len({_rate(cell) for cell in cells}) > 1)
    return [_of_group(run, cells, results) for cells in tuned]


def _of_group(run: StoredRun, cells: Sequence[Cell], results: Sequence[Mapping[str, Any]]) -> Row:
    losses = {cell["number"]: _valid_nll(results[cell["number"]]) for cell in cells}
    means = pooled(Candidate("", _rate(cell), _seed(cell), losses[cell["number"]]) for cell in cells)
    finite = [cell for cell in cells if math.isfinite(losses[cell["number"]] or math.nan)]
    best, grid = best_rate(means), sorted({_rate(cell) for cell in cells})
    own = cells[0]["coordinates"]
    row: Row = {name: own.get(name) for name in SETTING} | {"recipe": cells[0]["recipe"], "method": own["label"]}
    row |= {"rates": len(grid), "rates_measured": len(means), "lr": best}
    row |= {"seeds": len({_seed(cell) for cell in finite})}
    if best is None:
        return row | {"reason": "no learning rate is finished"}
    unresolved = edge(best, grid, means)
    row["lr_edge"] = unresolved
    if unresolved:
        end = f"the {unresolved} end of the grid" if unresolved in (LOW, HIGH) else "beside a rate that is not finished"
        return row | {"reason": f"the selected rate is {end}"}
    below, above = neighbours(best, grid)
    assert below is not None, "a resolved rate has two neighbours"
    assert above is not None, "a resolved rate has two neighbours"
    if not (math.isfinite(means[below]) and math.isfinite(means[above])):
        return row | {"reason": "training diverged at a neighbour of the selected rate"}
    if means[best] >= min(means[below], means[above]):
        return row | {"reason": "a neighbour of the selected rate is as good"}
    return row | _optimum(run, [cell for cell in finite if _rate(cell) in (below, best, above)], (below, best, above))


def _optimum(run: StoredRun, cells: Sequence[Cell], rates: tuple[float, float, float]) -> Row:
    """The columns of the optimum from finished cells at three rates; every rate has the same seeds."""
    seeds = sorted({_seed(cell) for cell in cells})
    folder = {(_rate(cell), _seed(cell)): cell["scores"]["valid"]["after"] for cell in cells}
    text = _cluster_sums(run, cells[0], [folder[rate, seed] for rate in rates for seed in seeds])
    losses = resampled_means(text, [0]).reshape(-1, len(rates), len(seeds))
    enough = text.effective_clusters >= MIN_DOCUMENTS - 1e-9
    found = lr_optimum(rates, losses, text.effective_clusters, enough)
    few = f"{text.effective_clusters:.0f} effective clusters: an interval takes {MIN_DOCUMENTS}"
    return {**_columns(found), "clusters": len(text.tokens), "reason": found.note or (None if enough else few)}


def _columns(found: LrOptimum) -> Row:
    return {
        "lr_optimum": found.lr,
        "lr_optimum_lo": found.lr_lo,
        "lr_optimum_hi": found.lr_hi,
        "factor_two_cost": found.factor_two_cost,
        "factor_two_cost_lo": found.factor_two_cost_lo,
        "factor_two_cost_hi": found.factor_two_cost_hi,
        "covers": found.covers or None,
    }


def _cluster_sums(run: StoredRun, cell: Cell, columns: Sequence[str]) -> ClusterSums:
    """Sums of `columns` over the clusters of a cell's validation text."""
    valid = cell["scores"]["valid"]
    scored = ~np.isnan(run.read(valid["before"], "nll_nats"))
    documents = run.read(valid["index"], "document")[scored]
    _, cluster = np.unique(document_clusters(run, valid["index"])[documents], return_inverse=True)
    n = int(cluster.max()) + 1 if len(cluster) else 0
    sums = [sums_by_cluster(run.read(name, "nll_nats")[scored], cluster, n) for name in columns]
    return ClusterSums(np.stack(sums, 1), np.bincount(cluster, minlength=n).astype(np.float64))


def _valid_nll(row: Mapping[str, Any]) -> float | None:
    """As rates were selected: not a number where training failed or diverged, None where it is not finished."""
    if row["status"] in ("failed", "done"):
        value: float | None = row.get("valid_nll_after")
        return math.nan if value is None else value
    return None


def _rate(cell: Cell) -> float:
    return float(cell["coordinates"]["lr"])


def _seed(cell: Cell) -> int:
    return int(cell["coordinates"]["seed"])
