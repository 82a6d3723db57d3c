"""One training step described by options instead of a recipe: does it fit, and what would help where it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftodyssey.errors import InputError, MethodError, ModelError
from peftodyssey.memory import search
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import MemoryPlan, estimate
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods.registry import METHODS
from peftodyssey.model_shape import ModelShape
from peftodyssey.models import source
from peftodyssey.models.more_positions import more_positions
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.recipe.cell import MethodSpec, QuantSpec

MAX_MICRO_BATCH = 1024  # the largest micro-batch that is tried


@dataclass(frozen=True)
class StepRequest:
    """A step in the words of the command line."""

    model: str
    method: str = "lora"  # full | lora | qlora
    rank: int = 8
    seq_len: int = 512  # tokens of a block
    micro_batch: int = 1  # blocks
    gradient_checkpointing: str = "full"  # none | selective | full
    optimizer: str = "adamw"  # adamw | adamw8bit
    engine: str = "native"  # native | stock | trl
    offload: str = "none"  # none | activations | optimizer | all
    precision: str | None = None  # None: bf16 on a GPU that has it, fp16 on another, fp32 on a CPU
    accumulate: int = 1  # micro-batches of one update
    master_weights: str = "fp32"  # of method full: fp32 | bf16
    max_position_embeddings: int | None = None  # tokens; in place of the shape's own, for random/ shapes


@dataclass(frozen=True)
class StepPlan:
    """The memory of one step against a budget."""

    what: str
    device: Device
    step: StepSpec
    memory: MemoryPlan
    budget_bytes: int
    max_micro_batch_size: int  # the largest micro-batch that fits with these settings; 0: not even one block
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the step stays within the budget."""
        return self.memory.fits(self.budget_bytes)


def step_plan(request: StepRequest, device: Device, budget_bytes: int | None) -> StepPlan:
    """The plan of `micro_batch` blocks of `seq_len` tokens.

    Raises ModelError, MethodError or InputError where the options do not go together.
    """
    shape = shape_from_config(source.planned_config(request.model, request.max_position_embeddings))
    if request.seq_len > shape.positions:
        way_out = more_positions(request.model, shape, request.seq_len, f"--max-position-embeddings {request.seq_len}")
        raise ModelError(
            f"--seq-len {request.seq_len:,} is longer than the {shape.positions:,} positions of {request.model}",
            f"use at most {shape.positions:,}; {way_out}",
        )
    _check_options(request)
    step = _step(request, shape, device)
    budget = device.budget_bytes if budget_bytes is None else budget_bytes
    memory = estimate(shape, step)
    method = request.method if request.method == "full" else f"{request.method} r={request.rank}"
    what = (
        f"{request.model}, {method}, {request.micro_batch} x {request.seq_len} tokens, "
        f"gradient checkpointing {request.gradient_checkpointing}, {request.engine}"
    )
    changes = () if memory.fits(budget) else tuple(search.advice(shape, step, budget))
    return StepPlan(what, device, step, memory, budget, _max_micro_batch_size(shape, step, budget), changes)


def _step(request: StepRequest, shape: ModelShape, device: Device) -> StepSpec:
    on_card = device.kind == "cuda"
    quant = QuantSpec("nf4", True) if request.method == "qlora" else None
    full = request.method == "full"
    rank = None if full else request.rank
    method = MethodSpec(request.method, request.method, lr=1e-4, rank=rank, alpha=2.0 * request.rank, quant=quant)
    if problems := METHODS[request.method].check(method, shape):
        raise MethodError(f"{request.method} on {request.model}: {problems[0]}", "change --rank or --method")
    _check_engine(request)
    offload_activations = request.offload in ("activations", "all")
    if offload_activations and request.gradient_checkpointing != "full":
        raise InputError(
            "--offload activations moves what --gradient-checkpointing full saves", "add --gradient-checkpointing full"
        )
    return StepSpec(
        precision=request.precision or (("bf16" if device.bf16 else "fp16") if on_card else "fp32"),
        quant=quant,
        trainable=METHODS[request.method].count(method, shape),
        full=full,
        adapter_rank=rank or 0,
        seq_len=request.seq_len,
        micro_batch_size=request.micro_batch,
        gradient_checkpointing=request.gradient_checkpointing,
        engine=request.engine,
        device="cuda" if on_card else "cpu",
        optimizer=request.optimizer,
        master=request.master_weights if full else "fp32",
        offload_activations=offload_activations,
        offload_optimizer=full and request.offload in ("optimizer", "all"),
        accumulates=request.accumulate > 1,
        large_cublas_workspace=device.is_hopper,
        loss_chunk_bytes=search.LOSS_CHUNK_BYTES["cuda" if on_card else "cpu"],
    )


def _check_options(request: StepRequest) -> None:
    """Raises InputError for an option that has no effect with the others."""
    full = request.method == "full"
    without_effect = {
        f"--offload {request.offload}": request.offload in ("optimizer", "all") and not full,
        f"--master-weights {request.master_weights}": request.master_weights != "fp32" and not full,
    }
    if unused := [option for option, has_none in without_effect.items() if has_none]:
        raise InputError(
            f"{unused[0]} has no effect with --method {request.method}: adapters and their optimiser states are small, "
            "in fp32 and on the device",
            "use --method full, or leave it out" + (" (--offload activations)" if request.offload == "all" else ""),
        )


def _check_engine(request: StepRequest) -> None:
    if request.engine == "native":
        return
    native_only = {
        "--gradient-checkpointing selective": request.gradient_checkpointing == "selective",
        f"--offload {request.offload}": request.offload != "none",
        f"--optimizer {request.optimizer}": request.engine == "trl" and request.optimizer != "adamw",
    }
    if used := [option for option, is_used in native_only.items() if is_used]:
        raise InputError(f"{used[0]} does not exist with --engine {request.engine}", "use --engine native")


def _max_micro_batch_size(shape: ModelShape, step: StepSpec, budget_bytes: int) -> int:
    """The largest micro-batch that fits, other things equal."""

    def fits(size: int) -> bool:
        return estimate(shape, replace(step, micro_batch_size=size)).fits(budget_bytes)

    if not fits(1):
        return 0
    low = 1
    while low < MAX_MICRO_BATCH and fits(low * 2):
        low *= 2
    high = min(low * 2, MAX_MICRO_BATCH)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
