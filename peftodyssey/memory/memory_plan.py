"""Does a training step fit: its memory term by term, from sizes alone, before any weight is loaded. No torch.

`StepSimulator` runs the step as allocations; the peak is split by term, and the arithmetic of PyTorch's caching
allocator says what is reserved for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from peftodyssey.memory.allocator import Allocator
from peftodyssey.memory.autograd_simulator import OverBudget, Tape
from peftodyssey.memory.step_simulator import StepSimulator
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.memory.traced_simulator import TracedStepSimulator
from peftodyssey.model_shape import ModelShape

CUDA_CONTEXT_BYTES = 500 << 20  # kernels and driver, outside of PyTorch's allocator
CPU_RUNTIME_BYTES = 725 << 20  # interpreter, torch, transformers and PEFT, texts; resident
CPU_SLACK = 0.03  # of what is allocated, kept by the C library
CUBLAS_BYTES = 8_519_680  # cuBLAS's workspace in PyTorch's allocator; on Hopper 32 MiB
HOPPER_CUBLAS_BYTES = 32 << 20
TERMS = (
    "weights",
    "adapters",
    "weight copies",
    "start weights",
    "optimiser states",
    "gradients",
    "batch",
    "activations",
    "attention mask",
    "logits and loss",
    "update buffers",
    "workspace",
)


@dataclass(frozen=True)
class Term:
    """One line of a memory plan: its name and its bytes."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of a step at its peak. The terms add up to `device_bytes`.

    `peak_allocated_bytes`: what tensors take; `peak_reserved_bytes`: what PyTorch's allocator reserves for them (on a
    CPU: the resident size of the process); `context_bytes`: outside of the allocator, in addition.
    """

    terms: tuple[Term, ...]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int

    @property
    def device_bytes(self) -> int:
        """All that must be free on the device."""
        return self.peak_reserved_bytes + self.context_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Whether the step stays within the budget."""
        return self.device_bytes <= budget_bytes


@lru_cache(maxsize=4096)
def estimate(shape: ModelShape, step: StepSpec) -> MemoryPlan:
    """The memory of one training step at its peak."""
    return _breakdown(simulate_step(shape, step), step)


@lru_cache(maxsize=4096)
def estimate_if_fits(shape: ModelShape, step: StepSpec, budget_bytes: int) -> MemoryPlan | None:
    """The memory of a step within the budget, None where it needs more; the simulation ends where it exceeds it."""
    try:
        plan = _breakdown(simulate_step(shape, step, budget_bytes=budget_bytes), step)
    except OverBudget:
        return None
    return plan if plan.fits(budget_bytes) else None


def _breakdown(tape: Tape, step: StepSpec) -> MemoryPlan:
    terms = [Term(name, tape.peak_terms.get(name, 0)) for name in TERMS]
    if step.device == "cpu":
        slack = int(tape.peak_bytes * CPU_SLACK)
        terms += [Term("allocator slack", slack), Term("runtime", CPU_RUNTIME_BYTES)]
        return MemoryPlan(tuple(terms), tape.peak_bytes, tape.peak_bytes + slack + CPU_RUNTIME_BYTES, 0)
    assert tape.allocator is not None
    cublas = HOPPER_CUBLAS_BYTES if step.large_cublas_workspace else CUBLAS_BYTES
    allocated, reserved = tape.peak_bytes + cublas, tape.allocator.peak_reserved_bytes + cublas
    terms[-1] = Term("workspace", terms[-1].size_bytes + cublas)
    terms += [Term("allocator slack", reserved - allocated), Term("CUDA context", CUDA_CONTEXT_BYTES)]
    return MemoryPlan(tuple(terms), allocated, reserved, CUDA_CONTEXT_BYTES)


def simulate_step(
    shape: ModelShape, step: StepSpec, kernel_workspace: bool = True, budget_bytes: int | None = None
) -> Tape:
    """The tape after the step's update; `kernel_workspace` counts the buffers inside attention kernels.

    Raises OverBudget as soon as more than `budget_bytes` are allocated.
    """
    on_card = step.device == "cuda"
    tape = Tape(Allocator(expandable=step.engine == "native") if on_card else None, budget_bytes)
    simulator = _simulator(shape)(shape, step, tape, kernel_workspace and on_card)
    simulator.allocate_persistent()
    simulator.run()
    return tape


def _simulator(shape: ModelShape) -> type[StepSimulator]:
    return TracedStepSimulator if shape.traced_config else StepSimulator


def scoring_tokens(shape: ModelShape, step: StepSpec, context: int, budget_bytes: int, max_tokens: int) -> int | None:
    """Tokens of one scoring pass beside the trained model; None where not even one window of `context` tokens fits."""
    tokens = max_tokens
    while tokens >= context:
        if scoring_bytes(shape, step, tokens) <= budget_bytes:
            return tokens
        tokens //= 2
    return context if scoring_bytes(shape, step, context) <= budget_bytes else None


@lru_cache(maxsize=4096)
def scoring_bytes(shape: ModelShape, step: StepSpec, tokens: int) -> int:
    """Device bytes of one scoring pass of `tokens` tokens, beside the adapters and optimiser states of `step`."""
    tape = Tape(None)
    one_block = replace(step, micro_batch_size=1, seq_len=tokens, packed=False, gradient_checkpointing="none")
    simulator = _simulator(shape)(shape, one_block, tape, kernel_workspace=False)
    simulator.allocate_persistent()
    simulator.score()
    runtime_bytes = CUDA_CONTEXT_BYTES + CUBLAS_BYTES if step.device == "cuda" else CPU_RUNTIME_BYTES
    return int(tape.peak_bytes * (1 + CPU_SLACK)) + runtime_bytes
