"""The smallest step along a direction that raises the loss, in a handful of forward passes. Called by `jobs.perturb`.

Critical sharpness is 2 over that step (Kalra et al., arXiv 2601.16979): along the gradient, and where the loss is
quadratic, it is the curvature in that direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

WITHIN = 1.1  # upper end over lower end of what is returned
FURTHEST = 16  # doublings either way before the search gives up


class Critical(NamedTuple):
    """A step `lo` that does not raise the loss and one `hi` that does, hi / lo at most WITHIN; None where none was
    found.
    """

    lo: float | None
    hi: float | None
    passes: int

    @property
    def step(self) -> float | None:
        """The middle, by ratio; None where the loss rose at every step tried or at none."""
        return (self.lo * self.hi) ** 0.5 if self.lo and self.hi else None


def critical_step(loss: Callable[[float], float], start: float) -> Critical:
    """The smallest step at which `loss` (of a step's length) exceeds loss(0): doubled or halved from `start`, then
    bisected.

    Steps below the first that is found to raise the loss are not searched for an earlier rise.
    """
    assert start > 0
    base, passes, step = loss(0.0), 1, start
    factor = 0.5 if loss(step) > base else 2.0
    passes += 1
    for _ in range(FURTHEST):
        following = step * factor
        passes += 1
        if (loss(following) > base) == (factor == 2.0):
            break
        step = following
    else:
        return Critical(None, step, passes) if factor == 0.5 else Critical(step, None, passes)
    lo, hi = sorted((step, following))
    while hi / lo > WITHIN:
        middle = (lo * hi) ** 0.5
        passes += 1
        lo, hi = (lo, middle) if loss(middle) > base else (middle, hi)
    return Critical(lo, hi, passes)
