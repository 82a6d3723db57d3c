"""Which cells of a grid train together over one base, and how many at a time.

`run.scheduler` asks for the fleets of what is to be done, `check` prints them. A fleet never changes a result, so it is
no part of a cell's identity.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from peftodyssey.memory.memory_plan import estimate
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.plan.tasks import CellTask, Plan

STARTS = ("default", "gaussian", "orthogonal")  # that leave the base as it is
WORTH_TOKENS = {"cuda": 16_384, "cpu": 4_096}  # of one joint pass: beyond, nothing is gained by more
ALONE = {  # constraints that are done between the steps of one training, or to its batches
    "l2_sp": "l2_sp pulls its own update after each step",
    "norm_ball": "norm_ball measures its own update after each step",
    "replay": "replay gives its steps more blocks",
    "early_stop": "early_stop ends it at a step of its own",
}
MOST_MEMBERS = {"cuda": 16, "cpu": 8}  # beyond, the base's share of a member's time is small


def why_not_batched(task: CellTask) -> str:
    """Why a cell cannot train with others, in words; "" where it can."""
    method, train = task.cell.method, task.cell.train
    if task.train_index is None:
        return "it is not trained"
    if method.method not in ("lora", "qlora"):
        return f"{method.method} is not LoRA"
    if method.options.get("dora"):
        return "DoRA scales the base's own weights"
    if (start := str(method.options.get("init") or "default")) not in STARTS:
        return f"init {start} changes the base or trains a part"
    if method.quant and method.quant.kind not in ("nf4", "fp4"):
        return f"{method.quant.kind} multiplies in a kernel of its own"
    if held := next((reason for name, reason in ALONE.items() if method.options.get(name)), ""):
        return held
    if train.engine != "native":
        return f"engine {train.engine} trains one at a time"
    if task.auto_values["precision"] == "fp16":
        return "fp16 scales each loss by itself"
    return "" if task.auto_values["optimizer"] == "adamw" else f"{task.auto_values['optimizer']} updates one at a time"


def multi_lora_groups(plan: Plan, cells: Sequence[CellTask]) -> list[tuple[CellTask, ...]]:
    """The cells of `cells` that train together, in their order; those that train alone are in none."""
    groups: dict[Hashable, list[CellTask]] = {}
    for task in cells:
        if task.cell.train.multi_lora != "off" and not why_not_batched(task):
            groups.setdefault(_shared(task), []).append(task)
    found = []
    for group in groups.values():
        while len(group) > 1:
            size = _size(plan, group)
            if size > 1:
                found.append(tuple(group[:size]))
            group = group[max(1, size) :]
    return found


def _shared(task: CellTask) -> Hashable:
    """What the members of a fleet have in common."""
    train = task.cell.train
    return (
        task.base.identifier,
        task.base.precision,
        train.seq_len,
        train.batch_tokens,
        train.betas,
        train.multi_lora,
        task.step.gradient_checkpointing,
        task.step.offload_activations,
    )


def _size(plan: Plan, group: Sequence[CellTask]) -> int:
    """How many of the first cells of `group` the memory allows, or were asked for."""
    asked = group[0].cell.train.multi_lora
    most = min(len(group), asked if isinstance(asked, int) else MOST_MEMBERS[plan.device.kind])
    for size in range(most, 1, -1):
        if estimate(group[0].shape, joint_step(group[:size])).fits(plan.budget_bytes):
            return size
    return 1


def joint_micro_batch(plan: Plan, members: Sequence[CellTask]) -> int:
    """Blocks of each member that pass through the model at a time: as many as are worth it and fit."""
    batch_size = members[0].cell.train.batch_tokens // members[0].cell.train.seq_len
    enough = WORTH_TOKENS[plan.device.kind] // (len(members) * members[0].cell.train.seq_len)
    for blocks in sorted((n for n in range(1, batch_size + 1) if batch_size % n == 0), reverse=True):
        if blocks <= max(1, enough) and estimate(members[0].shape, joint_step(members, blocks)).fits(plan.budget_bytes):
            return blocks
    return 1


def joint_step(members: Sequence[CellTask], micro_batch_size: int = 1) -> StepSpec:
    """The joint step of a fleet, `micro_batch_size` blocks of every member at a time, the widest member's rank for all."""
    widest = max(members, key=lambda task: task.step.adapter_rank).step
    batch_size = members[0].cell.train.batch_tokens // widest.seq_len
    return replace(
        widest,
        micro_batch_size=micro_batch_size,
        accumulates=batch_size > micro_batch_size,
        multi_lora_size=len(members),
    )
