"""Collects losses summed over the clusters of each text: what paired differences between any two cells are made of."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peftodyssey.stats.cluster_resampling import sums_by_cluster
from peftodyssey.stats.paired_difference import quantile
from peftodyssey.store.collected import Row
from peftodyssey.store.stored_run import Cell, StoredRun, document_clusters


def rows(run: StoredRun) -> list[Row]:
    """One row per cell, split and cluster, of the finished cells; clusters without a scored token have none."""
    clusters = functools.cache(functools.partial(_clusters, run))
    found: list[Row] = []
    for cell in run.done:
        for split, texts in (("test", [cell["scores"]["test"]]), ("general", cell["scores"].get("general") or ())):
            if texts:
                found += _of_text(run, cell, split, texts, clusters)
    return found


def _clusters(run: StoredRun, index: str) -> np.ndarray:
    """The number of the cluster of each row of an index, int [rows]."""
    return document_clusters(run, index)[run.read(index, "document")]


def _of_text(
    run: StoredRun, cell: Cell, split: str, texts: Sequence[Mapping[str, Any]], clusters: Any
) -> Iterator[Row]:
    numbers, first = [], 0
    for text in texts:
        numbers.append(clusters(text["index"]) + first)
        first = int(numbers[-1].max(initial=first - 1)) + 1
    before, after = (
        np.concatenate([run.read(text[stage], "nll_nats") for text in texts]) for stage in ("before", "after")
    )
    scored = ~(np.isnan(before) | np.isnan(after))
    cluster = np.concatenate(numbers)[scored]
    tokens = np.bincount(cluster, minlength=first)
    sums = [sums_by_cluster(column[scored], cluster, first) for column in (before, after)]
    t = quantile(tokens[tokens > 0].astype(np.float64))
    same = {"cell": cell["cell"], "recipe": cell["recipe"], "split": split, "quantile": t}
    same["text"] = "+".join(text["index"] for text in texts)
    for number in np.flatnonzero(tokens):
        yield {
            **same,
            "cluster": int(number),
            "tokens": int(tokens[number]),
            "nll_before": float(sums[0][number]),
            "nll_after": float(sums[1][number]),
        }
