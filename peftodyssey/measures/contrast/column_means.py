"""Resampled means of all losses on one split: every column of a setting under the same draws of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats.cluster_resampling import ClusterSums, joined, resampled_means, sums_by_cluster
from peftodyssey.store.stored_run import Cell, StoredRun, document_clusters

SPLITS = ("test", "valid", "general")  # each is drawn by itself
Folders = tuple[str, ...]  # of one column on every text of a split


@dataclass(frozen=True)
class ColumnMeans:
    """One split: nats per token of each column, on the text itself and on its resamples."""

    means: np.ndarray  # float64 [1 + resamples, columns]
    column: Mapping[Folders, int]
    clusters: int
    effective_clusters: float

    def of(self, cell: Cell, split: str, kind: str) -> np.ndarray:
        """float64 [1 + resamples] of a cell's column: before, quantised (before where there is none) or after."""
        return np.asarray(self.means[:, self.column[folders(cell, split, kind)]])


def folders(cell: Cell, split: str, kind: str) -> Folders:
    """The folders of a cell's column on the texts of a split: one text, or all general texts."""
    texts = cell["scores"]["general"] if split == "general" else [cell["scores"][split]]
    return tuple(str(text.get(kind) or text["before"]) for text in texts)


def column_means(run: StoredRun, cells: Sequence[Cell], split: str) -> ColumnMeans:
    """The means of every column of these cells, which were scored on the same texts; general texts are pooled."""
    kinds = ("before", "quantised", "after")
    names = list(dict.fromkeys(folders(cell, split, kind) for cell in cells for kind in kinds))
    texts = cells[0]["scores"]["general"] if split == "general" else [cells[0]["scores"][split]]
    before = folders(cells[0], split, "before")
    sums = [
        _cluster_sums(run, text["index"], before[number], [name[number] for name in names])
        for number, text in enumerate(texts)
    ]
    pooled = joined(sums)
    means = resampled_means(pooled, [SPLITS.index(split)])
    column = {name: number for number, name in enumerate(names)}
    return ColumnMeans(means, column, len(pooled.tokens), pooled.effective_clusters)


def _cluster_sums(run: StoredRun, index: str, before: str, scores: Sequence[str]) -> ClusterSums:
    """Sums of the columns `scores` over the clusters of one text, of the tokens that the base is scored on."""
    scored = ~np.isnan(run.read(before, "nll_nats"))
    cluster_of = document_clusters(run, index)
    _, cluster = np.unique(cluster_of[run.read(index, "document")[scored]], return_inverse=True)
    n = int(cluster.max()) + 1 if len(cluster) else 0
    sums = [sums_by_cluster(run.read(name, "nll_nats")[scored], cluster, n) for name in scores]
    return ClusterSums(np.stack(sums, 1), np.bincount(cluster, minlength=n).astype(np.float64))
