"""What a fleet's joint step took on this machine beside steps of its members alone, kept between runs. No torch.

`jobs.probe_fleet` makes them, `run.probing` keeps them beside `plan.probes`' own, `check` and `plan` say by them
whether a fleet pays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from peftodyssey.memory import probes
from peftodyssey.memory.device import Device
from peftodyssey.plan.multi_lora_groups import joint_micro_batch, multi_lora_groups
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic


@dataclass(frozen=True)
class MultiLoraProbe:
    """Steps of one fleet. Seconds of each joint step, the first of which warms up; bytes reserved at the peak."""

    what: str
    members: int
    step_seconds: tuple[float, ...]
    peak_reserved_bytes: int


@dataclass(frozen=True)
class TriedFleet:
    """A fleet's shape: how many of the plan's have it, what was measured or why it cannot be done, and its members
    alone.
    """

    multi_lora_groups: int
    probe: MultiLoraProbe | None
    reason: str
    alone_seconds: float | None  # of one step of every member, one after the other; None where one was not tried

    @property
    def times_as_fast(self) -> float | None:
        """How many times as fast the joint step is as its members' own, one after the other."""
        if self.probe is None or self.alone_seconds is None:
            return None
        return self.alone_seconds / self.probe.step_seconds[-1]


def shapes(plan: Plan) -> dict[str, list[tuple[CellTask, ...]]]:
    """The fleets of a plan by their shape."""
    found: dict[str, list[tuple[CellTask, ...]]] = {}
    for group in multi_lora_groups(plan, plan.cells):
        alone = sorted(probes.key_of(t.cell, t.step, t.base.source.fingerprint, plan.device) for t in group)
        found.setdefault(digest({"fleet": alone, "micro_batch_size": joint_micro_batch(plan, group)}), []).append(group)
    return found


def known(key: str) -> MultiLoraProbe | None:
    """What is known of that shape, None where nothing is or it cannot be read."""
    try:
        content = json.loads((probes.folder() / f"{key}.json").read_text(encoding="utf-8"))
        return MultiLoraProbe(**{**content, "step_seconds": tuple(content["step_seconds"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, probe: MultiLoraProbe) -> None:
    """Write it, whole or not at all."""
    probes.folder().mkdir(parents=True, exist_ok=True)
    atomic.write_text(probes.folder() / f"{key}.json", json.dumps(asdict(probe), indent=1) + "\n")


def of(plan: Plan) -> list[TriedFleet]:
    """What is known of the plan's fleets, shape by shape."""
    found = ((known(key), groups) for key, groups in shapes(plan).items())
    return [tried(probe, groups, plan.device) for probe, groups in found if probe is not None]


def tried(
    probe: MultiLoraProbe | None, groups: Sequence[Sequence[CellTask]], device: Device, reason: str = ""
) -> TriedFleet:
    """A shape beside what its members take alone."""
    alone = [probes.of(task, device) for task in groups[0]]
    steps = [one.step_seconds[-1] for one in alone if one is not None and one.step_seconds]
    return TriedFleet(len(groups), probe, reason, sum(steps) if len(steps) == len(alone) else None)
