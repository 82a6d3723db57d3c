"""The fastest settings that fit: a useful micro-batch, least recomputation, offload last; what helps where none fit.

The effective batch never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.memory import probes
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import (
    MemoryPlan,
    estimate,
    estimate_if_fits,
    scoring_bytes,
    scoring_tokens,
)
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.memory_settings import GRADIENT_CHECKPOINTING
from peftodyssey.methods.targets import target_linears
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import Cell, QuantSpec

LOSS_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}  # what fits a processor's caches; what keeps a card busy
SMALL_LOSS_CHUNK_BYTES = 16 << 20
ENOUGH_TOKENS = {"cpu": 2048}  # of a micro-batch: more are at most 5 % faster (SmolLM2-135M, 2, 4 and 8 x 512)


def cell_step(
    cell: Cell,
    shape: ModelShape,
    trainable: int,
    auto_values: Mapping[str, Any],
    fingerprint: str,
    device: Device,
    budget_bytes: int,
) -> tuple[StepSpec, MemoryPlan]:
    """A cell's step with the fastest settings within the budget, and its memory; the smallest step where none fits.

    `fingerprint` is the base model's. Where a probe measured this very step on this machine, the sums are the measured
    ones.
    """
    targets = target_linears(shape, cell.method.targets) if cell.method.rank else ()
    step = StepSpec(
        precision=str(auto_values["precision"]),
        quant=cell.method.quant,
        trainable=trainable,
        full=cell.method.method == "full",
        adapter_rank=cell.method.rank or 0,
        seq_len=cell.train.seq_len,
        micro_batch_size=1,
        gradient_checkpointing="none",
        engine=cell.train.engine,
        device=device.kind,
        optimizer=str(auto_values["optimizer"]),
        master="fp32" if auto_values["master_weights"] == "fp32" else "bf16",
        packed=True,
        targets=tuple(sorted({linear.leaf for linear in targets})) or None,
        large_cublas_workspace=device.is_hopper,
        loss_chunk_bytes=LOSS_CHUNK_BYTES[device.kind],
        **_constraints(cell),
    )
    batch_size = cell.train.batch_tokens // cell.train.seq_len
    step, plan = fastest_step(shape, step, batch_size, budget_bytes) or smallest_step(shape, step, batch_size)
    return step, probes.with_measured_sums(
        plan, probes.load(probes.probe_key(cell, step, fingerprint, device), probes.Probe)
    )


def _constraints(cell: Cell) -> dict[str, Any]:
    """What constraints add to a step. An adapter's update starts at 0, so it needs no copy of its initial weights."""
    options, trains_weights = cell.method.options, cell.method.rank is None
    return {
        "keeps_initial_weights": bool(trains_weights and (options.get("l2_sp") or options.get("norm_ball"))),
        "replays": bool(options.get("replay")),
        "dropout": options.get("dropout") == "config",
        "kept_copies": bool(options.get("early_stop")) + bool(trains_weights and options.get("wise_ft")),
    }


def scoring_batch(shape: ModelShape, step: StepSpec, context: int, budget_bytes: int) -> tuple[int | None, int]:
    """Tokens of one scoring pass beside the model that `step` trains, and its bytes; halved until it fits.

    None, with the bytes of one window of `context` tokens, where not even that fits. No result depends on it.
    """
    tokens = scoring_tokens(shape, step, context, budget_bytes, SCORE_BATCH_TOKENS[step.device])
    return tokens, scoring_bytes(shape, step, tokens or context)


def base_only(step: StepSpec, quant: QuantSpec | None) -> StepSpec:
    """The step's base model alone, stored as `quant` says."""
    return replace(
        step,
        quant=quant,
        trainable=0,
        full=False,
        adapter_rank=0,
        targets=None,
        optimizer="adamw",
        offload_activations=False,
        offload_optimizer=False,
        keeps_initial_weights=False,
        replays=False,
        dropout=False,
        kept_copies=0,
    )


def fastest_step(
    shape: ModelShape, step: StepSpec, batch_size: int, budget_bytes: int
) -> tuple[StepSpec, MemoryPlan] | None:
    """The step with the fastest settings that fit, and its memory; None where none fit."""
    sizes = _micro_batches(step, batch_size)
    for candidate in candidate_steps(step):
        if largest := _largest_micro_batch(shape, candidate, sizes, batch_size, budget_bytes):
            return largest
    return None


def _micro_batches(step: StepSpec, batch_size: int) -> list[int]:
    """The sizes to try, ascending: divisors of the batch; on a CPU every size up to the smallest one of full speed.

    The native engine's last micro-batch may be smaller than the others; an uneven batch, such as 31, has few divisors.
    """
    enough = ENOUGH_TOKENS.get(step.device)
    if enough is None or step.engine != "native":
        return [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    return list(range(1, min(batch_size, -(-enough // step.seq_len)) + 1))


def smallest_step(shape: ModelShape, step: StepSpec, batch_size: int) -> tuple[StepSpec, MemoryPlan]:
    """The step with the settings that need least memory, and its memory."""
    candidates = [_with_micro_batch(candidate, 1, batch_size) for candidate in candidate_steps(step)]
    return min(((step, estimate(shape, step)) for step in candidates), key=lambda pair: pair[1].device_bytes)


def candidate_steps(step: StepSpec) -> Iterator[StepSpec]:
    """The step with each combination of gradient checkpointing and offload, fastest first."""
    native, on_card = step.engine == "native", step.device == "cuda"
    can_offload_optimizer = step.full and native and on_card and step.precision != "fp16"
    for offload_optimizer in (False, True) if can_offload_optimizer else (False,):
        for gradient_checkpointing in GRADIENT_CHECKPOINTING if native else ("none", "full"):
            yield replace(step, gradient_checkpointing=gradient_checkpointing, offload_optimizer=offload_optimizer)
        if native and on_card:
            offloaded = replace(
                step,
                gradient_checkpointing="full",
                offload_activations=True,
                offload_optimizer=offload_optimizer,
            )
            yield offloaded
            yield replace(offloaded, loss_chunk_bytes=SMALL_LOSS_CHUNK_BYTES)


def _with_micro_batch(step: StepSpec, micro_batch_size: int, batch_size: int) -> StepSpec:
    return replace(step, micro_batch_size=micro_batch_size, accumulates=micro_batch_size < batch_size or step.replays)


def _largest_micro_batch(
    shape: ModelShape, step: StepSpec, sizes: list[int], batch_size: int, budget_bytes: int
) -> tuple[StepSpec, MemoryPlan] | None:
    """The largest of these micro-batches that fits, by bisection: more blocks never need less."""
    low, high, best = 0, len(sizes) - 1, None
    while low <= high:
        middle = high if best is None and high == len(sizes) - 1 else (low + high) // 2
        candidate = _with_micro_batch(step, sizes[middle], batch_size)
        if plan := estimate_if_fits(shape, candidate, budget_bytes):
            best, low = (candidate, plan), middle + 1
        else:
            high = middle - 1
    return best


def advice(shape: ModelShape, step: StepSpec, budget_bytes: int) -> list[str]:
    """Single changes that make the step fit, with what it then takes; pairs of changes where no single one does."""
    single = _changes(step)
    fitting = _fitting(shape, single, budget_bytes)
    if not fitting:
        pairs = {
            f"{first} and {second}": changed_twice
            for first, changed in single.items()
            for second, changed_twice in _changes(changed).items()
            if first < second
        }
        fitting = _fitting(shape, pairs, budget_bytes)[:6]
    if fitting:
        return fitting
    smallest, plan = smallest_step(shape, replace(step, seq_len=min(step.seq_len, 128)), 1)
    return [
        f"no setting makes it fit: one block of {smallest.seq_len} tokens with full gradient checkpointing and offload "
        f"still takes {plan.device_bytes / 2**30:.2f} GiB; use a smaller model or a larger card"
    ]


def _fitting(shape: ModelShape, changes: dict[str, StepSpec], budget_bytes: int) -> list[str]:
    sizes = {name: estimate(shape, changed).device_bytes for name, changed in changes.items()}
    return [f"would fit with {name}: {size / 2**30:.2f} GiB" for name, size in sizes.items() if size <= budget_bytes]


def _changes(step: StepSpec) -> dict[str, StepSpec]:
    """The step after each single change that a user can make, by its option on the command line."""
    native, on_card = step.engine == "native", step.device == "cuda"
    offload = native and on_card
    halved = max(1, step.seq_len // 2)
    changes = {
        "--gradient-checkpointing selective": replace(step, gradient_checkpointing="selective")
        if native and step.gradient_checkpointing == "none"
        else step,
        "--gradient-checkpointing full": replace(step, gradient_checkpointing="full"),
        "--offload activations": replace(step, gradient_checkpointing="full", offload_activations=offload),
        "--offload optimizer": replace(step, offload_optimizer=offload and step.full),
        "--micro-batch 1": replace(step, micro_batch_size=1, accumulates=step.accumulates or step.micro_batch_size > 1),
        f"--seq-len {halved}": replace(step, seq_len=halved),
        "--optimizer adamw8bit": replace(step, optimizer="adamw8bit") if native else step,
        "--engine native": replace(step, engine="native"),
    }
    if not step.full and step.quant is None:
        changes["--method qlora"] = replace(step, quant=QuantSpec("nf4", True))
    if step.full and step.master == "fp32" and step.precision == "bf16":
        changes["--master-weights bf16"] = replace(step, master="bf16")
    return {name: changed for name, changed in changes.items() if changed != step}
