"""The passages whose loss rose most after adaptation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Passage:
    """Rows first..last (inclusive) of a token index, all of one document."""

    document: int
    first: int
    last: int
    mean_delta: float  # nats per scored token; positive: worse


def worst_passages(delta_nats: np.ndarray, document: np.ndarray, *, width: int, k: int = 1) -> list[Passage]:
    """The `k` passages of `width` tokens with the largest mean rise of NLL, at most one per document, worst first.

    `delta_nats` float [n] is after - before, NaN where not scored (left out of the mean); `document` int [n], each
    document in consecutive rows. Documents shorter than `width` are taken whole. Ties go to the earlier passage.
    """
    edges = np.flatnonzero(np.diff(document)) + 1
    spans = zip([0, *edges], [*edges, len(document)], strict=True) if len(document) else []
    worst = [_worst_window(np.asarray(delta_nats[a:b], np.float64), int(document[a]), int(a), width) for a, b in spans]
    return sorted((passage for passage in worst if passage), key=lambda p: (-p.mean_delta, p.first))[:k]


def _worst_window(delta: np.ndarray, document: int, first: int, width: int) -> Passage | None:
    """The window of one document with the largest mean; None where nothing is scored."""
    width = min(width, len(delta))
    scored = ~np.isnan(delta)
    windows = np.lib.stride_tricks.sliding_window_view
    sums = windows(np.where(scored, delta, 0.0), width).sum(1)
    counts = windows(scored, width).sum(1)
    if not counts.any():
        return None
    means = np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0)
    start = int(means.argmax())
    return Passage(document, first + start, first + start + width - 1, float(means[start]))
