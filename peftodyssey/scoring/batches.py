"""Windows laid out in rectangles of token ids for one forward pass each. Called by `score.nll`.

"padded": one window a row, filled up on the right, where causal attention cannot see it. "packed": several windows a
row, each with its own positions from 0 and its own segment number, which `models.packing` keeps from seeing each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from peftodyssey.scoring.windows import WindowTable

LAYOUTS = ("padded", "packed")


@dataclass(frozen=True)
class Batch:
    """One rectangle. `place` int64[n]: flat places whose predictions are scored, `target` the tokens, `row` their index
    rows.
    """

    input_ids_bt: np.ndarray
    position_ids_bt: np.ndarray  # from 0 in every window
    segments_bt: np.ndarray  # number of the window in its row
    place: np.ndarray
    target: np.ndarray
    row: np.ndarray


def rows_of_windows(table: WindowTable, layout: str) -> list[list[int]]:
    """Which windows share a row, longest row first: one each (padded), or as many as fit the longest (packed)."""
    order = np.argsort(-table.length, kind="stable").tolist()
    if layout == "padded" or not order:
        return [[window] for window in order]
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (places left, row), ascending: best fit, decreasing
    for window in order:
        length = int(table.length[window])
        fit = bisect_left(free, (length, -1))
        left, row = free.pop(fit) if fit < len(free) else (int(table.length[order[0]]), len(rows))
        rows.extend([[]] * (row == len(rows)))
        rows[row] = [*rows[row], window]
        if left > length:
            free.insert(bisect_left(free, (left - length, row)), (left - length, row))
    return sorted(rows, key=lambda row: -int(table.length[row].sum()))


def take(table: WindowTable, rows: list[list[int]], batch_tokens: int) -> int:
    """How many of the first rows go into one rectangle of at most `batch_tokens` places; at least one."""
    width = int(table.length[rows[0]].sum())
    return min(max(batch_tokens // width, 1), len(rows))


def batch(table: WindowTable, rows: list[list[int]]) -> Batch:
    """The rectangle of these rows; places that no window fills hold token 0 in a segment of their own."""
    width = max(int(table.length[row].sum()) for row in rows)
    ids, positions = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    segments = np.zeros((len(rows), width), np.int64)
    place, predicted = [], []
    for number, begin, window, segment in _placed(table, rows):
        length, scored = int(table.length[window]), int(table.scored[window])
        source, row = int(table.begin[window]), int(table.row[window])
        here = slice(begin, begin + length)
        ids[number, here] = table.source[source : source + length]
        positions[number, here] = np.arange(length)
        segments[number, here] = segment
        place.append(number * width + np.arange(begin + length - scored, begin + length))
        predicted.append(
            np.stack([np.arange(source + length - scored, source + length) + 1, _rows(row, length, scored)])
        )
        segments[number, here.stop :] = segment + 1
        positions[number, here.stop :] = np.arange(width - here.stop)
    targets, index_rows = np.concatenate(predicted, axis=1)
    return Batch(ids, positions, segments, np.concatenate(place), table.source[targets], index_rows)


def _rows(row: int, length: int, scored: int) -> np.ndarray:
    return np.arange(row + length - scored, row + length)


def _placed(table: WindowTable, rows: list[list[int]]) -> Iterator[tuple[int, int, int, int]]:
    """(row of the rectangle, first place, window, segment number) of every window."""
    for number, row in enumerate(rows):
        begin = 0
        for segment, window in enumerate(row):
            yield number, begin, window, segment
            begin += int(table.length[window])
