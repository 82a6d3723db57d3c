"""What probes measured of a plan: each cell's own step, and the joint step of cells that train together. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftodyssey.memory import probes
from peftodyssey.memory.device import Device
from peftodyssey.memory.probes import Probe
from peftodyssey.plan.multi_lora_groups import group_cells, joint_micro_batch
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.recipe.identity import digest


@dataclass(frozen=True)
class ProbeResult:
    """A distinct step: the first cell with it, how many cells have it, and what was measured or why it failed."""

    task: CellTask
    cells: int
    probe: Probe | None
    reason: str
    cached: bool


@dataclass(frozen=True)
class MultiLoraProbe:
    """Joint steps of several adapters: seconds of each, the first of which warms up; bytes reserved at the peak."""

    what: str
    members: int
    step_seconds: tuple[float, ...]
    peak_reserved_bytes: int

    @property
    def steady_seconds(self) -> float:
        """Seconds of a joint step after the first one, their median."""
        return probes.median_after_first(self.step_seconds)


@dataclass(frozen=True)
class MultiLoraProbeResult:
    """A distinct joint step: how many groups have it, what was measured or why it failed, its members' steps."""

    groups: int
    probe: MultiLoraProbe | None
    reason: str
    separate_seconds: float | None  # of one step of every member, one after the other; None where one has no probe

    @property
    def speedup(self) -> float | None:
        """How many times as fast the joint step is as its members' own steps, one after the other."""
        if self.probe is None or self.separate_seconds is None:
            return None
        return self.separate_seconds / self.probe.steady_seconds


def key_of(task: CellTask, device: Device) -> str:
    """Name of the probe of a planned cell's step."""
    return probes.probe_key(task.cell, task.step, task.base.source.fingerprint, device)


def load(task: CellTask, device: Device) -> Probe | None:
    """The probe of a planned cell's step, None where there is none."""
    return probes.load(key_of(task, device), Probe)


def groups_by_key(plan: Plan) -> dict[str, list[tuple[CellTask, ...]]]:
    """The groups of a plan's cells that train together, by the name of the probe of their joint step."""
    groups: dict[str, list[tuple[CellTask, ...]]] = {}
    for group in group_cells(plan, plan.cells):
        members = sorted(key_of(task, plan.device) for task in group)
        key = digest({"multi_lora": members, "micro_batch_size": joint_micro_batch(plan, group)})
        groups.setdefault(key, []).append(group)
    return groups


def multi_lora_results(plan: Plan) -> list[MultiLoraProbeResult]:
    """What probes on this machine say of the plan's groups; groups without a probe are left out."""
    loaded = ((probes.load(key, MultiLoraProbe), groups) for key, groups in groups_by_key(plan).items())
    return [multi_lora_result(probe, groups, plan.device) for probe, groups in loaded if probe is not None]


def multi_lora_result(
    probe: MultiLoraProbe | None, groups: Sequence[Sequence[CellTask]], device: Device, reason: str = ""
) -> MultiLoraProbeResult:
    """The probe of a joint step beside the probes of its members' own steps."""
    members = [load(task, device) for task in groups[0]]
    seconds = [member.steady_seconds for member in members if member is not None and member.step_seconds]
    return MultiLoraProbeResult(len(groups), probe, reason, sum(seconds) if len(seconds) == len(members) else None)
