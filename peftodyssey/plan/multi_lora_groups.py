"""Which LoRA cells of a grid train together over one base model, and how many at a time.

Training together never changes a result, so it is not part of a cell's identity.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from peftodyssey.memory.memory_plan import estimate
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.plan.tasks import CellTask, Plan

INIT_LORA_WEIGHTS = ("default", "gaussian", "orthogonal")  # those that leave the base model unchanged
MAX_USEFUL_TOKENS = {"cuda": 16_384, "cpu": 4_096}  # of one joint pass: more are not faster
NOT_BATCHED = {  # constraints that act between the steps of one training, or on its batches
    "l2_sp": "l2_sp changes the weights after each step",
    "norm_ball": "norm_ball changes the weights after each step",
    "replay": "replay adds blocks to each step",
    "early_stop": "early_stop ends each training at its own step",
}
MAX_MEMBERS = {"cuda": 16, "cpu": 8}  # more are hardly faster: the base model's share of the time is small


def why_not_batched(task: CellTask) -> str:
    """Why a cell cannot train together with others, in words; "" where it can."""
    method, train = task.cell.method, task.cell.train
    if task.train_index is None:
        return "it is not trained"
    if method.method not in ("lora", "qlora"):
        return f"{method.method} is not LoRA"
    if method.options.get("dora"):
        return "DoRA scales the base weights"
    if (init := str(method.options.get("init") or "default")) not in INIT_LORA_WEIGHTS:
        return f"init {init} changes the base model or trains a part of the adapter"
    if method.quant and method.quant.kind not in ("nf4", "fp4"):
        return f"{method.quant.kind} uses a kernel of its own"
    if task.shape.traced_config:
        return f"documents of a {task.shape.family} model may pass in rows of their own"
    if task.base.source.stored_quant:
        return "its base is stored quantised"
    if constraint := next((reason for name, reason in NOT_BATCHED.items() if method.options.get(name)), ""):
        return constraint
    if train.engine != "native":
        return f"engine {train.engine} trains one cell at a time"
    if task.auto_values["precision"] == "fp16":
        return "fp16 scales each loss separately"
    return (
        ""
        if task.auto_values["optimizer"] == "adamw"
        else f"{task.auto_values['optimizer']} updates one cell at a time"
    )


def group_cells(plan: Plan, cells: Sequence[CellTask]) -> list[tuple[CellTask, ...]]:
    """The groups of `cells` that train together, in their order; a cell that trains alone is in none."""
    groups: dict[Hashable, list[CellTask]] = {}
    for task in cells:
        if task.cell.train.multi_lora != "off" and not why_not_batched(task):
            groups.setdefault(_group_key(task), []).append(task)
    result = []
    for group in groups.values():
        while len(group) > 1:
            size = _size(plan, group)
            if size > 1:
                result.append(tuple(group[:size]))
            group = group[max(1, size) :]
    return result


def can_train_together(plan: Plan, group: Sequence[CellTask]) -> bool:
    """Whether `group` may train as one, by the recipe and the memory."""
    setting = group[0].cell.train.multi_lora
    if setting == "off" or any(why_not_batched(task) for task in group):
        return False
    return len({_group_key(task) for task in group}) == 1 and _fit(plan, group)


def left_over(cells: Sequence[CellTask], groups: Sequence[Sequence[CellTask]]) -> list[CellTask]:
    """The cells that could train with those of a group, but are in none: the groups hold as many as they can."""
    keys, together = {_group_key(group[0]) for group in groups}, {task.folder for group in groups for task in group}
    return [
        task for task in cells if task.folder not in together and not why_not_batched(task) and _group_key(task) in keys
    ]


def _group_key(task: CellTask) -> Hashable:
    """What cells that train together have in common."""
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
        task.stem.number if task.stem else None,  # larger budgets start from what smaller ones have saved
    )


def _size(plan: Plan, group: Sequence[CellTask]) -> int:
    """How many of the first cells of `group` fit, up to the number that the recipe sets."""
    setting = group[0].cell.train.multi_lora
    max_members = setting if isinstance(setting, int) else MAX_MEMBERS[plan.device.kind]
    sizes = range(min(len(group), max_members), 1, -1)
    return next((size for size in sizes if _fit(plan, group[:size])), 1)


def _fit(plan: Plan, group: Sequence[CellTask]) -> bool:
    return estimate(group[0].shape, joint_step(group)).fits(plan.budget_bytes)


def joint_micro_batch(plan: Plan, members: Sequence[CellTask]) -> int:
    """Blocks of each member in one pass through the model: as many as are useful and fit."""
    batch_size = members[0].cell.train.batch_tokens // members[0].cell.train.seq_len
    enough = MAX_USEFUL_TOKENS[plan.device.kind] // (len(members) * members[0].cell.train.seq_len)
    for blocks in sorted((n for n in range(1, batch_size + 1) if batch_size % n == 0), reverse=True):
        if blocks <= max(1, enough) and estimate(members[0].shape, joint_step(members, blocks)).fits(plan.budget_bytes):
            return blocks
    return 1


def joint_step(members: Sequence[CellTask], micro_batch_size: int = 1) -> StepSpec:
    """The joint step of `members`: `micro_batch_size` blocks of each in one pass, all at the largest rank."""
    largest = max(members, key=lambda task: task.step.adapter_rank).step
    batch_size = members[0].cell.train.batch_tokens // largest.seq_len
    return replace(
        largest,
        micro_batch_size=micro_batch_size,
        accumulates=batch_size > micro_batch_size,
        multi_lora_size=len(members),
    )
