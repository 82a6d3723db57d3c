"""Which blocks a step trains on, in which order, and how many of their tokens are trained.

The epochs' permutations are read end to end: step s takes the positions s * batch_size and following of that endless
order, so the position in the data is the number of steps done.
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
    return blocks_at(n_blocks, range(step * batch_size, (step + 1) * batch_size), seed)


def blocks_at(n_blocks: int, positions: range, seed: int) -> np.ndarray:
    """Block numbers at these positions of the endless order (int64)."""
    epochs = {
        epoch: epoch_permutation(n_blocks, seed, epoch) for epoch in {position // n_blocks for position in positions}
    }
    return np.array([epochs[position // n_blocks][position % n_blocks] for position in positions], dtype=np.int64)


def trained_tokens(blocks: PackedSequences, block_numbers: np.ndarray) -> int:
    """Labels of these blocks that are trained."""
    return int(np.count_nonzero(blocks.labels[block_numbers] != IGNORE_INDEX))


def require_trained_tokens(blocks: PackedSequences) -> None:
    """Raises TrainingError where no label of the whole corpus is trained, or there is no block."""
    if not len(blocks.labels) or not np.any(blocks.labels != IGNORE_INDEX):
        raise TrainingError(
            f"there is nothing to train on: {len(blocks.labels)} blocks without a trained token",
            "see the tokens with `peftodyssey check --show 3`; `objective: sft` trains answers only",
        )


def digest(blocks: PackedSequences) -> str:
    """SHA-256 hex of what is trained on: a saved state resumes only with the same blocks."""
    sha256 = hashlib.sha256(repr(blocks.labels.shape).encode())
    for array in (blocks.input_ids, blocks.labels, blocks.position_ids, blocks.segment_ids):
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
