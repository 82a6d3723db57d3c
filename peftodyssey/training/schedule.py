"""The learning rate of a step as a share of its peak. `train.loop` multiplies it with `lr`; no torch.

The same curves as transformers' `get_scheduler`: step 0 of a warm-up has rate 0, the last step is one short
of the end.
"""

from __future__ import annotations

import math

WSD_DECAY_SHARE = 0.2  # of all steps; the plateau lies between warm-up and this


def lr_multiplier(
    step: int, *, steps: int, warmup_steps: int, schedule: str, decay_share: float = WSD_DECAY_SHARE
) -> float:
    """Learning rate of `step` (from 0) over the peak learning rate, in 0..1. `decay_share`: of all steps, for wsd."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        return _warmup_stable_decay(step, steps, warmup_steps, decay_share)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    assert schedule == "cosine", schedule
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def wsd_decay_steps(steps: int, warmup_steps: int, share: float = WSD_DECAY_SHARE) -> int:
    """Steps of the linear fall at the end of `wsd`."""
    return min(math.ceil(steps * share), steps - warmup_steps)


def _warmup_stable_decay(step: int, steps: int, warmup_steps: int, share: float) -> float:
    decay_steps = wsd_decay_steps(steps, warmup_steps, share)
    decayed = step - (steps - decay_steps)
    if decayed < 0:
        return 1.0
    return max(0.0, 1.0 - decayed / max(1, decay_steps))
