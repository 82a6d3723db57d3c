"""The settings that fit: largest micro-batch, least recompute, offload last; and what would help where nothing fits.

Called by `plan.build` and the `plan` verb. The effective batch never changes: only divisors of it are tried.
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
from peftodyssey.methods.targets import targeted
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import Cell, QuantSpec

LOSS_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}  # what fits a processor's caches; what keeps a card busy
SMALL_LOSS_CHUNK_BYTES = 16 << 20


def cell_step(
    cell: Cell,
    anatomy: ModelShape,
    trainable: int,
    resolved: Mapping[str, Any],
    fingerprint: str,
    device: Device,
    budget_bytes: int,
) -> tuple[StepSpec, MemoryPlan]:
    """How a cell's step is done within the budget, and its bill; the leanest way where none fits.

    Where this very shape was tried on this machine (`fingerprint` is the base's), its sums are those that were
    measured.
    """
    targets = targeted(anatomy, cell.method.targets) if cell.method.rank else ()
    step = StepSpec(
        precision=str(resolved["precision"]),
        quant=cell.method.quant,
        trainable=trainable,
        full=cell.method.method == "full",
        adapter_rank=cell.method.rank or 0,
        seq_len=cell.train.seq_len,
        micro_batch_size=1,
        gradient_checkpointing="none",
        engine=cell.train.engine,
        device=device.kind,
        optimizer=str(resolved["optimizer"]),
        master="fp32" if resolved["master_weights"] == "fp32" else "bf16",
        packed=True,
        targets=tuple(sorted({m.leaf for m in targets})) or None,
        large_cublas_workspace=device.is_hopper,
        loss_chunk_bytes=LOSS_CHUNK_BYTES[device.kind],
        **_constraints(cell),
    )
    batch_size = cell.train.batch_tokens // cell.train.seq_len
    chosen, bill = choose(anatomy, step, batch_size, budget_bytes) or smallest(anatomy, step, batch_size)
    return chosen, probes.corrected(bill, probes.known(probes.key_of(cell, chosen, fingerprint, device)))


def _constraints(cell: Cell) -> dict[str, Any]:
    """What the further constraints of a method change in its step: a product of factors starts at 0, which no copy need
    say.
    """
    options, weights = cell.method.options, cell.method.rank is None
    copies = bool(options.get("early_stop")) + bool(weights and options.get("wise_ft"))
    anchored = bool(weights and (options.get("l2_sp") or options.get("norm_ball")))
    return {"keeps_initial_weights": anchored, "replays": bool(options.get("replay")), "kept_copies": copies}


def scoring(anatomy: ModelShape, step: StepSpec, context: int, budget_bytes: int) -> tuple[int | None, int]:
    """Tokens of one scoring pass beside the model that `step` trains, and its bytes: the most that fit, half by half.

    None, with the bytes of one window of `context` tokens, where not even that fits. No result depends on it.
    """
    tokens = scoring_tokens(anatomy, step, context, budget_bytes, SCORE_BATCH_TOKENS[step.device])
    return tokens, scoring_bytes(anatomy, step, tokens or context)


def base_only(step: StepSpec, quant: QuantSpec | None) -> StepSpec:
    """The base alone, stored as `quant` says."""
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
        kept_copies=0,
    )


def choose(
    anatomy: ModelShape, step: StepSpec, batch_size: int, budget_bytes: int
) -> tuple[StepSpec, MemoryPlan] | None:
    """The fastest way to do the step that fits, with its bill; None where none does."""
    divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    for way in candidates(step):
        best = _largest(anatomy, way, divisors, batch_size, budget_bytes)
        if best:
            return best
    return None


def smallest(anatomy: ModelShape, step: StepSpec, batch_size: int) -> tuple[StepSpec, MemoryPlan]:
    """The way of doing the step that needs least, with its bill."""
    found = [(way, estimate(anatomy, way)) for way in (_sized(way, 1, batch_size) for way in candidates(step))]
    return min(found, key=lambda pair: pair[1].device_bytes)


def candidates(step: StepSpec) -> Iterator[StepSpec]:
    """How a step can be done, fastest first: what is kept, what is computed again, what waits in host memory."""
    own, card = step.engine == "native", step.device == "cuda"
    hosted = (False, True) if step.full and own and card and step.precision != "fp16" else (False,)
    for host in hosted:
        for gradient_checkpointing in ("none", "selective", "full") if own else ("none", "full"):
            yield replace(step, gradient_checkpointing=gradient_checkpointing, offload_optimizer=host)
        if own and card:
            offloaded = replace(step, gradient_checkpointing="full", offload_activations=True, offload_optimizer=host)
            yield offloaded
            yield replace(offloaded, loss_chunk_bytes=SMALL_LOSS_CHUNK_BYTES)


def _sized(step: StepSpec, micro_batch_size: int, batch_size: int) -> StepSpec:
    return replace(step, micro_batch_size=micro_batch_size, accumulates=micro_batch_size < batch_size or step.replays)


def _largest(
    anatomy: ModelShape, way: StepSpec, divisors: list[int], batch_size: int, budget_bytes: int
) -> tuple[StepSpec, MemoryPlan] | None:
    """The largest micro-batch that fits: more blocks never need less, so halves are searched."""
    low, high, best = 0, len(divisors) - 1, None
    while low <= high:
        middle = high if best is None and high == len(divisors) - 1 else (low + high) // 2
        candidate = _sized(way, divisors[middle], batch_size)
        if bill := estimate_if_fits(anatomy, candidate, budget_bytes):
            best, low = (candidate, bill), middle + 1
        else:
            high = middle - 1
    return best


def advice(anatomy: ModelShape, step: StepSpec, budget_bytes: int) -> list[str]:
    """Single changes that would make the step fit, with what it then takes; two at a time where none alone does."""
    single = _changes(step)
    fitting = _fitting(anatomy, single, budget_bytes)
    if not fitting:
        pairs = {
            f"{first} and {second}": changed
            for first, once in single.items()
            for second, changed in _changes(once).items()
            if first < second
        }
        fitting = _fitting(anatomy, pairs, budget_bytes)[:6]
    if fitting:
        return fitting
    least, bill = smallest(anatomy, replace(step, seq_len=min(step.seq_len, 128)), 1)
    return [
        f"nothing tried makes it fit: one block of {least.seq_len} tokens with everything recomputed and offloaded still "
        f"takes {bill.device_bytes / 2**30:.2f} GiB; a smaller model or a larger card would"
    ]


def _fitting(anatomy: ModelShape, changes: dict[str, StepSpec], budget_bytes: int) -> list[str]:
    found = [(name, estimate(anatomy, changed).device_bytes) for name, changed in changes.items()]
    return [f"would fit with {name}: {size / 2**30:.2f} GiB" for name, size in found if size <= budget_bytes]


def _changes(step: StepSpec) -> dict[str, StepSpec]:
    """What a user can change, in the words of the command line."""
    own, card = step.engine == "native", step.device == "cuda"
    found = {
        "--gradient-checkpointing selective": replace(step, gradient_checkpointing="selective")
        if own and step.gradient_checkpointing == "none"
        else step,
        "--gradient-checkpointing full": replace(step, gradient_checkpointing="full"),
        "--offload activations": replace(step, gradient_checkpointing="full", offload_activations=own and card),
        "--offload optimizer": replace(step, offload_optimizer=own and card and step.full),
        "--micro-batch 1": replace(step, micro_batch_size=1, accumulates=step.accumulates or step.micro_batch_size > 1),
        f"--seq-len {max(1, step.seq_len // 2)}": replace(step, seq_len=max(1, step.seq_len // 2)),
        "--optimizer adamw8bit": replace(step, optimizer="adamw8bit") if own else step,
        "--engine native": replace(step, engine="native"),
    }
    if not step.full and step.quant is None:
        found["--method qlora"] = replace(step, quant=QuantSpec("nf4", True))
    if step.full and step.master == "fp32" and step.precision == "bf16":
        found["--master-weights bf16"] = replace(step, master="bf16")
    return {name: changed for name, changed in found.items() if changed != step}
