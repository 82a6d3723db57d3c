"""Replay: general text beside the text that is adapted to, in every step. For `train.gradients` and `jobs.adapt`.

A step has the target blocks that it would have without replay, in the same order, and so many replayed ones that these
are the asked share of all (over the steps: a step's own number is whole). Steps, learning rates and the budget count
target text alone; the tokens that a training reports are all that it was trained on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.training import sampler

if TYPE_CHECKING:
    from peftodyssey.training.settings import TrainSettings

SEED_OFFSET = 2_000_003  # replayed blocks come in another order than target ones


def concat_replay(target: PackedSequences, general: PackedSequences) -> PackedSequences:
    """The blocks of both, the general ones last and counted as `replayed`."""
    arrays = (np.concatenate([getattr(of, name) for of in (target, general)]) for name in PackedSequences.ARRAYS)
    return PackedSequences(*arrays, replayed=len(general.labels))


def replayed_before(settings: TrainSettings, step: int) -> int:
    """How many replayed blocks the steps before step `step`, counted from 0, have had."""
    return math.floor(step * settings.batch_size * settings.replay / (1 - settings.replay) + 1e-9)


def batch_indices(blocks: PackedSequences, settings: TrainSettings, step: int) -> np.ndarray:
    """Block numbers of a step's batch (int64), target ones first."""
    own = blocks.target_sequences
    target = sampler.step_blocks(own, settings.batch_size, settings.seed, step)
    if not blocks.replayed:
        return target
    first, end = replayed_before(settings, step), replayed_before(settings, step + 1)
    general = sampler.indices_at(blocks.replayed, range(first, end), settings.seed + SEED_OFFSET)
    return np.concatenate([target, own + general])
