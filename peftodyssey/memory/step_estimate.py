"""One training step described by options instead of a recipe: will it fit, and what would help. Called by the `plan`
verb.
"""

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
from peftodyssey.models.shape_from_config import shape_from_config as anatomy_of
from peftodyssey.recipe.cell import MethodSpec, QuantSpec

MOST_BLOCKS = 1024  # the largest micro-batch that is looked for


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
    precision: str | None = None  # None: bf16 on a card that has it
    accumulate: int = 1  # micro-batches of one update
    master_weights: str = "fp32"  # of method full: fp32 | bf16


@dataclass(frozen=True)
class StepPlan:
    """The bill of one step against a budget."""

    what: str
    step: StepSpec
    memory: MemoryPlan
    budget_bytes: int
    max_micro_batch_size: int  # the largest micro-batch that fits with these settings; 0: not even one block
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the step stays within the budget."""
        return self.memory.fits(self.budget_bytes)


def step_plan(wanted: StepRequest, device: Device, budget_bytes: int | None) -> StepPlan:
    """The plan of `micro_batch` blocks of `seq_len` tokens; ModelError, MethodError or InputError where they cannot be."""
    anatomy = anatomy_of(source.resolve(wanted.model).config)
    if wanted.seq_len > anatomy.positions:
        raise ModelError(
            f"--seq-len {wanted.seq_len:,} is longer than the {anatomy.positions:,} positions of {wanted.model}",
            f"use at most {anatomy.positions:,}",
        )
    step = _step(wanted, anatomy, device, budget_bytes)
    budget = device.budget_bytes if budget_bytes is None else budget_bytes
    bill = estimate(anatomy, step)
    told = f"{wanted.method}{'' if wanted.method == 'full' else f' r={wanted.rank}'}"
    what = f"{wanted.model}, {told}, {wanted.micro_batch} x {wanted.seq_len} tokens, gradient checkpointing {wanted.gradient_checkpointing}, {wanted.engine}"
    helps = () if bill.fits(budget) else tuple(search.advice(anatomy, step, budget))
    return StepPlan(what, step, bill, budget, _most(anatomy, step, budget), helps)


def _step(wanted: StepRequest, anatomy: ModelShape, device: Device, budget_bytes: int | None) -> StepSpec:
    on_card = device.kind == "cuda" or budget_bytes is not None
    quant = QuantSpec("nf4", True) if wanted.method == "qlora" else None
    full, rank = wanted.method == "full", None if wanted.method == "full" else wanted.rank
    point = MethodSpec(wanted.method, wanted.method, lr=1e-4, rank=rank, alpha=2.0 * wanted.rank, quant=quant)
    if problems := METHODS[wanted.method].check(point, anatomy):
        raise MethodError(f"{wanted.method} on {wanted.model}: {problems[0]}", "change --rank or --method")
    if wanted.engine != "native":
        _refuse_own_ways(wanted)
    activations = wanted.offload in ("activations", "all")
    if activations and wanted.gradient_checkpointing != "full":
        raise InputError(
            "--offload activations moves what --gradient-checkpointing full keeps", "add --gradient-checkpointing full"
        )
    return StepSpec(
        precision=wanted.precision or ("bf16" if on_card else "fp32"),
        quant=quant,
        trainable=METHODS[wanted.method].count(point, anatomy),
        full=full,
        adapter_rank=rank or 0,
        seq_len=wanted.seq_len,
        micro_batch_size=wanted.micro_batch,
        gradient_checkpointing=wanted.gradient_checkpointing,
        engine=wanted.engine,
        device="cuda" if on_card else "cpu",
        optimizer=wanted.optimizer,
        master=wanted.master_weights if full else "fp32",
        offload_activations=activations,
        offload_optimizer=full and wanted.offload in ("optimizer", "all"),
        accumulates=wanted.accumulate > 1,
        large_cublas_workspace=device.is_hopper,
        loss_chunk_bytes=search.LOSS_CHUNK_BYTES["cuda" if on_card else "cpu"],
    )


def _refuse_own_ways(wanted: StepRequest) -> None:
    own = {
        "--gradient-checkpointing selective": wanted.gradient_checkpointing == "selective",
        f"--offload {wanted.offload}": wanted.offload != "none",
        f"--optimizer {wanted.optimizer}": wanted.engine == "trl" and wanted.optimizer != "adamw",
    }
    if asked := [name for name, used in own.items() if used]:
        raise InputError(f"{asked[0]} is not there with --engine {wanted.engine}", "use --engine own")


def _most(anatomy: ModelShape, step: StepSpec, budget_bytes: int) -> int:
    """The largest number of blocks at a time that fits, other things equal."""

    def fits(blocks: int) -> bool:
        return estimate(anatomy, replace(step, micro_batch_size=blocks)).fits(budget_bytes)

    if not fits(1):
        return 0
    low = 1
    while low < MOST_BLOCKS and fits(low * 2):
        low *= 2
    high = min(low * 2, MOST_BLOCKS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
