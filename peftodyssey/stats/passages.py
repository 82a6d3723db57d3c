"""The passages that a model reads worse (or better) after adaptation. Called by the report, which shades their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Passage:
    """Rows first..last (inclusive) of an index, all of one document."""

    document: int
    first: int
    last: int
    mean_delta: float  # nats per scored token; positive: worse


def worst_passages(
    delta_nats: np.ndarray, document: np.ndarray, *, width: int = 64, k: int = 1, best: bool = False
) -> list[Passage]:
    """The `k` passages of `width` tokens with the largest mean rise of NLL, at most one of each document, worst first.

    `delta_nats` float[n] after - before, NaN where not scored (left out of a passage's mean); `document` int[n] in
    runs. Documents shorter than `width` are taken whole. `best` looks for the largest fall. Ties go to the earlier
    passage.
    """
    sign = -1.0 if best else 1.0
    edges = np.flatnonzero(np.diff(document)) + 1
    spans = zip([0, *edges], [*edges, len(document)], strict=True) if len(document) else []
    found = [
        _worst_in(sign * np.asarray(delta_nats[a:b], np.float64), int(document[a]), int(a), width) for a, b in spans
    ]
    ranked = sorted((passage for passage in found if passage), key=lambda p: (-p.mean_delta, p.first))
    return [Passage(p.document, p.first, p.last, sign * p.mean_delta) for p in ranked[:k]]


def _worst_in(delta: np.ndarray, document: int, first: int, width: int) -> Passage | None:
    """The window of one document with the largest mean, None where nothing is scored."""
    width = min(width, len(delta))
    scored = ~np.isnan(delta)
    windows = np.lib.stride_tricks.sliding_window_view
    sums = windows(np.where(scored, delta, 0.0), width).sum(1)
    counts = windows(scored, width).sum(1)
    if not counts.any():
        return None
    means = np.divide(sums, counts, out=np.full(len(sums), -np.inf), where=counts > 0)
    at = int(means.argmax())
    return Passage(document, first + at, first + at + width - 1, float(means[at]))
