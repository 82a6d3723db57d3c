"""Replay: every step trains on sequences of general text together with sequences of the target text.

A step has the target sequences that it would have without replay, in the same order, and as many general sequences as
make up the share `settings.replay` of all (over the steps; in each step the number is whole). Steps, learning rates and
the budget count target text alone; the tokens that a training reports are all that it was trained on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.training import sampler

if TYPE_CHECKING:
    from peftodyssey.training.settings import TrainSettings

SEED_OFFSET = 2_000_003  # general sequences come in another order than target sequences


def concat_replay(target: PackedSequences, general: PackedSequences) -> PackedSequences:
    """The sequences of both, the general ones last and counted as `replayed`."""
    arrays = {name: np.concatenate([getattr(target, name), getattr(general, name)]) for name in PackedSequences.ARRAYS}
    return PackedSequences(**arrays, replayed=len(general.labels))


def replayed_before(settings: TrainSettings, step: int) -> int:
    """How many general sequences the steps before step `step`, counted from 0, have had."""
    return math.floor(step * settings.batch_size * settings.replay / (1 - settings.replay) + 1e-9)


def batch_indices(sequences: PackedSequences, settings: TrainSettings, step: int) -> np.ndarray:
    """Indices of the sequences of a step's batch (int64), target sequences first."""
    target = sampler.step_indices(sequences.target_sequences, settings.batch_size, settings.seed, step)
    if not sequences.replayed:
        return target
    positions = range(replayed_before(settings, step), replayed_before(settings, step + 1))
    general = sampler.indices_at(sequences.replayed, positions, settings.seed + SEED_OFFSET)
    return np.concatenate([target, sequences.target_sequences + general])
