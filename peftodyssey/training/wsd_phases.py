"""A ladder's training as phases: a trunk at a constant learning rate, and branches that decay to 0. No torch.

An annealed rung of n steps has seen the whole schedule `wsd` of n steps: until its branch leaves the trunk, that
schedule is the trunk's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peftodyssey.training.schedule import lr_multiplier, wsd_decay_steps

TRUNK, ANNEALED = "trunk", "annealed"


@dataclass(frozen=True)
class Phase:
    """Steps `start` to `stop` of one arm; `rung` is the name under which its end is saved, "" where it is not."""

    arm: str  # trunk | annealed
    start: int
    stop: int
    rung: str = ""

    @property
    def steps(self) -> int:
        """Optimiser steps that this phase takes."""
        return self.stop - self.start


def phases(
    trunk: Mapping[str, int], annealed: Mapping[str, int], *, warmup_steps: int, decay_share: float
) -> list[Phase]:
    """The phases in the order in which they are trained, from rung names and their steps.

    A branch comes right after the trunk phase that it leaves from, so that one saved trunk serves it. The trunk ends
    with the last rung or branch that needs it.
    """
    leaves = {name: stop - wsd_decay_steps(stop, warmup_steps, decay_share) for name, stop in annealed.items()}
    ordered: list[Phase] = []
    start = 0
    for stop in sorted({*trunk.values(), *leaves.values()}):
        rung = next((name for name, steps in trunk.items() if steps == stop), "")
        if stop > start:
            ordered.append(Phase(TRUNK, start, stop, rung))
        ordered += [
            Phase(ANNEALED, stop, annealed[name], name)
            for name in sorted(leaves, key=annealed.__getitem__)
            if leaves[name] == stop
        ]
        start = stop
    return ordered


def lr_factor(phase: Phase, step: int, *, warmup_steps: int, decay_share: float) -> float:
    """Learning rate of `step` (from 0) in `phase` over the peak."""
    schedule = "constant" if phase.arm == TRUNK else "wsd"
    return lr_multiplier(step, steps=phase.stop, warmup_steps=warmup_steps, schedule=schedule, decay_share=decay_share)
