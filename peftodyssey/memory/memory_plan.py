"""Will it fit: the memory of one training step, term by term, from sizes alone, before a weight is loaded. No torch.

Called by `plan.build` for every cell, by `plan.choose` and by the `plan` verb. The step is run as lifetimes
(`plan.program`), its peak is split by term, and the caching allocator's arithmetic says what is reserved for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from peftodyssey.memory.allocator import Allocator
from peftodyssey.memory.autograd_simulator import Overflow, Tape
from peftodyssey.memory.step_simulator import Program
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.model_shape import ModelShape

CUDA_CONTEXT_BYTES = 500 << 20  # kernels and driver, outside of PyTorch's allocator
CPU_RUNTIME_BYTES = 650 << 20  # interpreter, torch and transformers, resident
CPU_SLACK = 0.03  # of what is allocated, kept by the C library
CUBLAS_BYTES = 8_519_680  # cuBLAS's workspace in PyTorch's allocator; on Hopper 32 MiB
HOPPER_CUBLAS_BYTES = 32 << 20
ORDER = (
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
    """One line of the bill: what it is and how many bytes."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """The bill of a step at its highest point. The terms add up to what the device has to have.

    `peak_allocated_bytes`: what tensors take; `peak_reserved_bytes`: what PyTorch's allocator holds for them (on a CPU:
    the resident size of the process); `context_bytes`: outside of the allocator, on top.
    """

    terms: tuple[Term, ...]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int

    @property
    def device_bytes(self) -> int:
        """All that the device has to have free."""
        return self.peak_reserved_bytes + self.context_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Whether the step stays within the budget."""
        return self.device_bytes <= budget_bytes


@lru_cache(maxsize=4096)
def estimate(anatomy: ModelShape, step: StepSpec) -> MemoryPlan:
    """The bill of one training step, at the moment when it is highest."""
    return _breakdown(run(anatomy, step), step)


@lru_cache(maxsize=4096)
def estimate_if_fits(anatomy: ModelShape, step: StepSpec, budget_bytes: int) -> MemoryPlan | None:
    """The bill of a step that stays within the budget, None of one that does not: that shows early in the step."""
    try:
        bill = _breakdown(run(anatomy, step, most_bytes=budget_bytes), step)
    except Overflow:
        return None
    return bill if bill.fits(budget_bytes) else None


def _breakdown(tape: Tape, step: StepSpec) -> MemoryPlan:
    known = [Term(name, tape.peak_terms.get(name, 0)) for name in ORDER]
    if step.device == "cpu":
        slack = int(tape.peak_bytes * CPU_SLACK)
        terms = [*known, Term("allocator slack", slack), Term("runtime", CPU_RUNTIME_BYTES)]
        return MemoryPlan(tuple(terms), tape.peak_bytes, tape.peak_bytes + slack + CPU_RUNTIME_BYTES, 0)
    assert tape.allocator is not None
    cublas = HOPPER_CUBLAS_BYTES if step.large_cublas_workspace else CUBLAS_BYTES
    allocated, reserved = tape.peak_bytes + cublas, tape.allocator.peak_reserved_bytes + cublas
    terms = [
        *known[:-1],
        Term("workspace", known[-1].size_bytes + cublas),
        Term("allocator slack", reserved - allocated),
        Term("CUDA context", CUDA_CONTEXT_BYTES),
    ]
    return MemoryPlan(tuple(terms), allocated, reserved, CUDA_CONTEXT_BYTES)


def run(anatomy: ModelShape, step: StepSpec, kernel_workspace: bool = True, most_bytes: int | None = None) -> Tape:
    """The tape of the step after its update; `kernel_workspace` counts what attention kernels hold inside themselves.

    Raises Overflow as soon as more than `most_bytes` are alive.
    """
    on_card = step.device == "cuda"
    tape = Tape(Allocator(expandable=step.engine == "native") if on_card else None, most_bytes)
    program = Program(anatomy, step, tape, kernel_workspace and on_card)
    program.allocate_persistent()
    program.run()
    return tape


def scoring_tokens(anatomy: ModelShape, step: StepSpec, context: int, budget_bytes: int, most: int) -> int | None:
    """Tokens that one scoring pass may hold beside the trained model; None where not even one window of `context` fits."""
    tokens = most
    while tokens >= context:
        if scoring_bytes(anatomy, step, tokens) <= budget_bytes:
            return tokens
        tokens //= 2
    return context if scoring_bytes(anatomy, step, context) <= budget_bytes else None


@lru_cache(maxsize=4096)
def scoring_bytes(anatomy: ModelShape, step: StepSpec, tokens: int) -> int:
    """Device bytes of one scoring pass of `tokens` tokens, with the adapters and optimiser states of `step` in place."""
    on_card = step.device == "cuda"
    tape = Tape(None)
    program = Program(
        anatomy,
        replace(step, micro_batch_size=1, seq_len=tokens, packed=False, gradient_checkpointing="none"),
        tape,
        False,
    )
    program.allocate_persistent()
    program.score()
    rest = CUDA_CONTEXT_BYTES + CUBLAS_BYTES if on_card else CPU_RUNTIME_BYTES
    return int(tape.peak_bytes * (1 + CPU_SLACK)) + rest
