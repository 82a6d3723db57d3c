"""One training step described by options instead of a recipe: will it fit, and what would help. Called by the `plan` verb."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftodyssey.anatomy import Anatomy
from peftodyssey.errors import MethodError, ModelError
from peftodyssey.methods.table import METHODS
from peftodyssey.models import source
from peftodyssey.models.anatomy import anatomy as anatomy_of
from peftodyssey.plan.device import Device
from peftodyssey.plan.memory import MemoryPlan, Step, estimate
from peftodyssey.recipe.cell import MethodPoint, QuantPoint


@dataclass(frozen=True)
class StepPlan:
    """The bill of one step against a budget."""

    what: str
    memory: MemoryPlan
    budget_bytes: int
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the step stays within the budget."""
        return self.memory.fits(self.budget_bytes)


def step_plan(
    model: str, method: str, rank: int, seq_len: int, micro_batch: int, recompute: str, engine: str,
    device: Device, budget_bytes: int | None, precision: str | None = None,
) -> StepPlan:  # fmt: skip
    """The plan of `micro_batch` blocks of `seq_len` tokens; ModelError or MethodError where they cannot be."""
    anatomy = anatomy_of(source.resolve(model).config)
    if seq_len > anatomy.positions:
        raise ModelError(
            f"--seq-len {seq_len:,} is longer than the {anatomy.positions:,} positions of {model}",
            f"use at most {anatomy.positions:,}",
        )
    quant = QuantPoint("nf4", True) if method == "qlora" else None
    point = MethodPoint(method, method, lr=1e-4, rank=None if method == "full" else rank, alpha=2.0 * rank, quant=quant)
    if problems := METHODS[method].check(point, anatomy):
        raise MethodError(f"{method} on {model}: {problems[0]}", "change --rank or --method")
    arithmetic = precision or ("bf16" if device.kind == "cuda" or budget_bytes else "fp32")
    step = Step(
        precision=arithmetic, quant=quant, trainable=METHODS[method].count(point, anatomy), full=method == "full",
        adapter_rank=point.rank or 0, seq_len=seq_len, micro_blocks=micro_batch, recompute=recompute, engine=engine,
        device="cuda" if budget_bytes else device.kind,
    )  # fmt: skip
    budget = device.budget_bytes if budget_bytes is None else budget_bytes
    bill = estimate(anatomy, step)
    what = f"{model}, {method}{'' if method == 'full' else f' r={rank}'}, {micro_batch} x {seq_len} tokens, recompute {recompute}, {engine}"
    return StepPlan(what, bill, budget, () if bill.fits(budget) else tuple(_advice(anatomy, step, budget)))


def _advice(anatomy: Anatomy, step: Step, budget_bytes: int) -> list[str]:
    """Single changes that would make the step fit, with what it then takes."""
    changes = {
        "recompute activations (--recompute full)": replace(step, recompute="full"),
        "one block at a time (--micro-batch 1)": replace(step, micro_blocks=1),
        f"shorter blocks (--seq-len {step.seq_len // 2})": replace(step, seq_len=max(1, step.seq_len // 2)),
        "the chunked loss of --engine own": replace(step, engine="own"),
    }
    if not step.full and step.quant is None:
        changes["4-bit base (--method qlora)"] = replace(step, quant=QuantPoint("nf4", True))
    found = [(name, estimate(anatomy, changed)) for name, changed in changes.items() if changed != step]
    fitting = [f"would fit with {name}: {bill.peak_reserved_bytes / 2**30:.2f} GiB" for name, bill in found if bill.fits(budget_bytes)]
    return fitting or ["no single change makes it fit; try a smaller model, or qlora with short blocks and recompute full"]
