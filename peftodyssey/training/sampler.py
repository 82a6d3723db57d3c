"""Which sequences a step trains on, in which order, and how many of their tokens are trained.

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


def step_indices(num_sequences: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices of the sequences of one step's batch (int64 [batch_size]); `step` counts from 0."""
    return indices_at(num_sequences, range(step * batch_size, (step + 1) * batch_size), seed)


def indices_at(num_sequences: int, positions: range, seed: int) -> np.ndarray:
    """Indices of the sequences at these positions of the endless order (int64)."""
    epochs = {
        epoch: epoch_permutation(num_sequences, seed, epoch)
        for epoch in {position // num_sequences for position in positions}
    }
    return np.array(
        [epochs[position // num_sequences][position % num_sequences] for position in positions], dtype=np.int64
    )


def trained_tokens(sequences: PackedSequences, indices: np.ndarray) -> int:
    """Labels of these sequences that are trained."""
    return int(np.count_nonzero(sequences.labels[indices] != IGNORE_INDEX))


def require_trained_tokens(sequences: PackedSequences) -> None:
    """Raises TrainingError where no label of the whole corpus is trained, or there is no sequence."""
    if not len(sequences.labels) or not np.any(sequences.labels != IGNORE_INDEX):
        raise TrainingError(
            f"there is nothing to train on: {len(sequences.labels)} sequences without a trained token",
            "see the tokens with `peftodyssey check --show 3`; `objective: sft` trains answers only",
        )


def digest(sequences: PackedSequences) -> str:
    """SHA-256 hex of what is trained on: a saved state resumes only with the same sequences."""
    sha256 = hashlib.sha256(repr(sequences.labels.shape).encode())
    for array in (sequences.input_ids, sequences.labels, sequences.position_ids, sequences.segment_ids):
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
