"""What would make a recipe's cell fit, in the recipe's own keys: single changes, else pairs of them. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from peftodyssey.memory.device import DESKTOP_MARGIN_BYTES, Device
from peftodyssey.memory.gpu_table import smallest_gpu
from peftodyssey.memory.memory_plan import scoring_bytes
from peftodyssey.memory.search import smallest_step
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods.registry import METHODS
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.recipe.cell import MethodSpec, QuantSpec

LEAST_TOKENS = 64  # of a shortened sequence or window
ADAPTER_RANK = 16  # of the adapter that is proposed in place of full fine-tuning
MAX_PAIRS = 6


@dataclass(frozen=True)
class _Variant:
    """A cell's step and window of scoring, as a change leaves them."""

    step: StepSpec
    context: int


def fitting_changes(task: CellTask, plan: Plan) -> list[str]:
    """The changes that make `task` fit, each with what it then takes; what it needs where there is none."""
    start = _Variant(task.step, task.cell.score.context)
    single = dict(_changes(start, task, plan.device))
    fitting = _fitting(single, task, plan.budget_bytes)
    if not fitting:
        pairs = {
            f"{first} and {second}": both
            for first, variant in single.items()
            for second, both in _changes(variant, task, plan.device)
            if first.split("=")[0] < second.split("=")[0]
        }
        fitting = _fitting(pairs, task, plan.budget_bytes)
    lines = [f"would fit with {name}: {size / 2**30:.2f} GiB" for name, size in list(fitting.items())[:MAX_PAIRS]]
    lines = lines or ["no change of one or two settings makes it fit; use a smaller model"]
    return [*lines, *larger_gpu(_bytes(start, task), plan.device)]


def larger_gpu(needed_bytes: int, device: Device) -> list[str]:
    """The smallest known GPU that holds `needed_bytes`, as a line; nothing for a CPU."""
    gpu = smallest_gpu(needed_bytes, device.bf16, DESKTOP_MARGIN_BYTES) if device.kind == "cuda" else None
    return [f"as it stands it fits on a GPU such as: {gpu.name} ({gpu.total_gib:.1f} GiB)"] if gpu else []


def _fitting(variants: dict[str, _Variant], task: CellTask, budget_bytes: int) -> dict[str, int]:
    """Bytes by change, of those that fit; of each key the first value, which changes least."""
    fitting: dict[str, int] = {}
    keys: set[tuple[str, ...]] = set()
    for name, variant in variants.items():
        key = tuple(part.split("=")[0] for part in name.split(" and "))
        if key in keys:
            continue
        if (size := _bytes(variant, task)) <= budget_bytes:
            fitting[name] = size
            keys.add(key)
    return fitting


def _bytes(variant: _Variant, task: CellTask) -> int:
    """The most that training by the leanest settings, or scoring, takes of the device."""
    step, memory = smallest_step(task.shape, variant.step, task.cell.train.batch_tokens // variant.step.seq_len)
    return max(memory.device_bytes, scoring_bytes(task.shape, step, variant.context))


def _changes(start: _Variant, task: CellTask, device: Device) -> Iterator[tuple[str, _Variant]]:
    """The variants after each single change of the recipe."""
    step, native = start.step, start.step.engine == "native"
    for tokens in _halves(step.seq_len):
        yield f"train.seq_len={tokens}", replace(start, step=replace(step, seq_len=tokens))
    for tokens in _halves(start.context):
        yield f"score.context={tokens}", replace(start, context=tokens)
    if not native:
        yield "train.engine=native", replace(start, step=replace(step, engine="native"))
    if native and step.optimizer == "adamw":
        yield "train.optimizer=adamw8bit", replace(start, step=replace(step, optimizer="adamw8bit"))
    if step.precision == "fp32" and (device.bf16 or device.kind == "cpu"):
        yield "train.precision=bf16", replace(start, step=replace(step, precision="bf16"))
    if step.full and step.master == "fp32" and step.precision == "bf16":
        yield "master_weights: bf16", replace(start, step=replace(step, master="bf16"))
    for method in ("lora", "qlora") if step.full else ("qlora",) if task.cell.method.method == "lora" else ():
        if step.full or step.quant is None:
            yield _method_change(start, method, task)


def _method_change(start: _Variant, name: str, task: CellTask) -> tuple[str, _Variant]:
    """The step by another method; an adapter in place of full fine-tuning has the rank ADAPTER_RANK."""
    quant = QuantSpec("nf4", True) if name == "qlora" else None
    if not start.step.full:
        return f"method: {name}", replace(start, step=replace(start.step, quant=quant))
    method = MethodSpec(name, name, lr=1e-4, rank=ADAPTER_RANK, alpha=2.0 * ADAPTER_RANK, quant=quant)
    trainable = METHODS[name].count(method, task.shape)
    step = replace(
        start.step, quant=quant, full=False, trainable=trainable, adapter_rank=ADAPTER_RANK, master="fp32",
        offload_optimizer=False, keeps_initial_weights=False,
    )  # fmt: skip
    return f"method: {name}, rank {ADAPTER_RANK}", replace(start, step=step)


def _halves(tokens: int) -> Iterator[int]:
    while tokens % 2 == 0 and tokens // 2 >= LEAST_TOKENS:
        tokens //= 2
        yield tokens
