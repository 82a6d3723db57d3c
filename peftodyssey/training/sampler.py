"""Which blocks a step trains on, in which order, and how many of their tokens are trained. For both training
engines.

The order is `corpora.blocks.order` of one epoch after the other, read as one endless row: step s takes the
places s * batch_size and following, so a position in the data is just the number of steps done.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.corpora.packing import IGNORE_INDEX, epoch_permutation
from peftodyssey.errors import TrainingError

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences


def step_blocks(n_blocks: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Block numbers of one step's batch (int64 [batch_size]); `step` counts from 0."""
    return indices_at(n_blocks, range(step * batch_size, (step + 1) * batch_size), seed)


def indices_at(n_blocks: int, row: range, seed: int) -> np.ndarray:
    """Block numbers at these places of the endless row (int64)."""
    places = np.arange(row.start, row.stop)
    epochs = {int(epoch): epoch_permutation(n_blocks, seed, int(epoch)) for epoch in np.unique(places // n_blocks)}
    return np.array([epochs[int(place // n_blocks)][place % n_blocks] for place in places], dtype=np.int64)


def trained_tokens(blocks: PackedSequences, chosen: np.ndarray) -> int:
    """Labels of these blocks that are trained."""
    return int(np.count_nonzero(blocks.labels[chosen] != IGNORE_INDEX))


def require_trained_tokens(blocks: PackedSequences) -> None:
    """Raises TrainingError where no label of the whole corpus is trained, or there is no block."""
    if not len(blocks.labels) or not np.any(blocks.labels != IGNORE_INDEX):
        raise TrainingError(
            f"there is nothing to train on: {len(blocks.labels)} blocks with not one trained token",
            "see the tokens with `peftodyssey check --show 3`; `objective: sft` trains answers only",
        )


def digest(blocks: PackedSequences) -> str:
    """SHA-256 hex of what is trained on: a saved state goes on only with the same blocks."""
    found = hashlib.sha256(repr(blocks.labels.shape).encode())
    for array in (blocks.input_ids, blocks.labels, blocks.position_ids, blocks.segment_ids):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
