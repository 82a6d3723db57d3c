"""The smallest step along a direction that raises the loss, in a handful of forward passes.

Critical sharpness is 2 over that step (Kalra et al., arXiv 2601.16979): along the gradient, and where the loss is
quadratic, it is the curvature in that direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_RATIO = 1.1  # of the two steps that are returned
MAX_DOUBLINGS = 16  # either way before the search gives up


class CriticalStep(NamedTuple):
    """A step `lo` that does not raise the loss and a step `hi` that does, hi / lo at most MAX_RATIO.

    None in place of one that was not found within MAX_DOUBLINGS.
    """

    lo: float | None
    hi: float | None
    passes: int

    @property
    def step(self) -> float | None:
        """The geometric mean; None where the loss rose at every step tried or at none."""
        return (self.lo * self.hi) ** 0.5 if self.lo and self.hi else None


def critical_step(loss: Callable[[float], float], start: float) -> CriticalStep:
    """The smallest step at which `loss` (of a step's length) exceeds loss(0): doubled or halved from `start`, then
    bisected.

    An earlier rise below the first step that is found to raise the loss is not searched for.
    """
    assert start > 0
    base, passes, step = loss(0.0), 1, start
    factor = 0.5 if loss(step) > base else 2.0
    passes += 1
    for _ in range(MAX_DOUBLINGS):
        following = step * factor
        passes += 1
        if (loss(following) > base) == (factor == 2.0):
            break
        step = following
    else:
        return CriticalStep(None, step, passes) if factor == 0.5 else CriticalStep(step, None, passes)
    lo, hi = sorted((step, following))
    while hi / lo > MAX_RATIO:
        middle = (lo * hi) ** 0.5
        passes += 1
        lo, hi = (lo, middle) if loss(middle) > base else (middle, hi)
    return CriticalStep(lo, hi, passes)
