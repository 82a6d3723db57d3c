"""Learning-rate schedules, the same curves as transformers' `get_scheduler`; no torch.

With warm-up, step 0 has learning rate 0; the last step is one short of the end of the curve.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peftodyssey.constants import WSD_DECAY_SHARE

if TYPE_CHECKING:
    from peftodyssey.training.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step`, counted from 0."""
    return settings.lr * lr_multiplier(
        step, steps=settings.steps, warmup_steps=settings.warmup_steps, schedule=settings.schedule
    )


def lr_multiplier(
    step: int, *, steps: int, warmup_steps: int, schedule: str, decay_share: float = WSD_DECAY_SHARE
) -> float:
    """Learning rate of `step` (from 0) over the peak learning rate, in 0..1. `decay_share`: of all steps, for wsd."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        decay_steps = wsd_decay_steps(steps, warmup_steps, decay_share)
        decayed = step - (steps - decay_steps)
        return 1.0 if decayed < 0 else max(0.0, 1.0 - decayed / max(1, decay_steps))
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    assert schedule == "cosine", schedule
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def wsd_decay_steps(steps: int, warmup_steps: int, share: float = WSD_DECAY_SHARE) -> int:
    """Steps of the linear decay at the end of `wsd`."""
    return min(math.ceil(steps * share), steps - warmup_steps)
