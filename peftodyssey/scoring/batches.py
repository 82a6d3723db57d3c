"""Windows laid out in rectangles of token ids for one forward pass each.

"padded": one window a row, filled up on the right, where causal attention cannot see it. "packed": several windows a
row, each with its own positions from 0 and its own segment number, which `models.packed_inputs` keeps from
seeing each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora.sft_packing import best_fit_decreasing
from peftodyssey.scoring.windows import WindowTable


@dataclass(frozen=True)
class Batch:
    """One rectangle, and the n predictions of it that are scored."""

    input_ids_bt: np.ndarray
    position_ids_bt: np.ndarray  # from 0 in every window
    segment_ids_bt: np.ndarray  # number of the window in its row
    position: np.ndarray  # int64 [n]: positions in the flattened rectangle whose predictions are scored
    target: np.ndarray  # int64 [n]: the tokens to predict
    index_row: np.ndarray  # int64 [n]: their rows of the index


def rows_of_windows(table: WindowTable, layout: str) -> list[list[int]]:
    """Which windows share a row, longest row first: one each (padded), or as many as fit the longest (packed)."""
    if layout == "padded" or not len(table):
        return [[window] for window in np.argsort(-table.length, kind="stable").tolist()]
    lengths = table.length.tolist()
    return sorted(best_fit_decreasing(lengths, max(lengths)), key=lambda row: -int(table.length[row].sum()))


def num_rows_that_fit(table: WindowTable, rows: list[list[int]], batch_tokens: int) -> int:
    """How many of the first rows form a rectangle of at most `batch_tokens` positions; at least one."""
    width = int(table.length[rows[0]].sum())
    return min(max(batch_tokens // width, 1), len(rows))


def batch(table: WindowTable, rows: list[list[int]]) -> Batch:
    """The rectangle of these rows; positions that no window fills hold token 0 in a segment of their own."""
    width = max(int(table.length[row].sum()) for row in rows)
    input_ids, position_ids, segment_ids = np.zeros((3, len(rows), width), np.int64)
    positions, targets, index_rows = [], [], []
    for number, row in enumerate(rows):
        begin = 0
        for segment, window in enumerate(row):
            length, source = int(table.length[window]), int(table.begin[window])
            here = slice(begin, begin + length)
            input_ids[number, here] = table.source[source : source + length]
            position_ids[number, here] = np.arange(length)
            segment_ids[number, here] = segment
            scored = np.arange(length - int(table.scored[window]), length)
            positions.append(number * width + begin + scored)
            targets.append(table.source[source + 1 + scored])
            index_rows.append(int(table.row[window]) + scored)
            begin = here.stop
        segment_ids[number, begin:] = len(row)
        position_ids[number, begin:] = np.arange(width - begin)
    scored_predictions = (np.concatenate(arrays) for arrays in (positions, targets, index_rows))
    return Batch(input_ids, position_ids, segment_ids, *scored_predictions)
