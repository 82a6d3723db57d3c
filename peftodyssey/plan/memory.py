"""Will it fit: the memory of one training step, term by term, from sizes alone.

Called by `plan.build` for every cell and by the `plan` verb. First form: every term is there and stated,
activations are counted per layer from the tensors that autograd keeps; the accuracy bar comes with measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.anatomy import Anatomy
from peftodyssey.recipe.cell import QuantPoint

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
NF4_BLOCK = 64  # weights per absmax constant
DOUBLE_QUANT_BLOCK = 256  # absmax constants per second-level constant
CUDA_CONTEXT_BYTES = 500 << 20
CPU_RUNTIME_BYTES = 650 << 20  # interpreter, torch and transformers, resident
SLACK = 0.03  # of what is allocated, kept by the caching allocator
LOSS_CHUNK_BYTES = 32 << 20  # fp32 logits that the chunked loss holds at a time


@dataclass(frozen=True)
class Term:
    """One line of the bill: what it is and how many bytes."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Step:
    """What a training step is made of, as far as memory goes."""

    precision: str  # fp32 | bf16 | fp16
    quant: QuantPoint | None
    trainable: int  # numbers trained
    full: bool  # the weights themselves are trained
    adapter_rank: int  # 0 where there is no adapter
    seq_len: int  # tokens
    micro_blocks: int
    recompute: str  # none | selective | full
    engine: str  # own | trl | stock
    device: str  # cpu | cuda
    optimizer: str = "adamw"  # adamw | adamw8bit
    master: str = "fp32"  # fp32 | same: the type in which trained weights are kept
    offload_activations: bool = False  # the inputs of recomputed layers wait in pinned host memory
    offload_optimizer: bool = False  # gradients and optimiser states live in pinned host memory
    accumulates: bool = False  # several micro-batches a step: gradients are there from the second on
    packed: bool = False  # several documents a block: attention takes a mask of seq_len x seq_len
    fleet: int = 1  # adapters trained together over one base
    targets: tuple[str, ...] | None = None  # leaf names of the adapted matrices; None: every linear map of the layers
    loss_chunk_bytes: int = 64 << 20  # float32 logits alive at a time


@dataclass(frozen=True)
class MemoryPlan:
    """The bill and its sum. `peak_allocated_bytes` is what tensors take, reserved adds slack and runtime."""

    terms: tuple[Term, ...]
    peak_allocated_bytes: int
    peak_reserved_bytes: int

    def fits(self, budget_bytes: int) -> bool:
        """Whether the step stays within the budget."""
        return self.peak_reserved_bytes <= budget_bytes


def estimate(anatomy: Anatomy, step: Step) -> MemoryPlan:
    """The bill of one training step: weights, adapters, gradients, optimiser, activations, logits, workspace."""
    tokens = step.seq_len * step.micro_blocks
    terms = [
        Term("weights", weight_bytes(anatomy, step)),
        Term("adapters", 0 if step.full else 4 * step.trainable),
        Term("gradients", 4 * step.trainable),
        Term("optimiser states", 8 * step.trainable),
        Term("activations", activation_bytes(anatomy, step, tokens)),
        Term("logits and loss", logit_bytes(anatomy, step, tokens)),
        Term("dequantised weight", _largest_matrix(anatomy) * BYTES[step.precision] if step.quant else 0),
    ]
    allocated = sum(term.size_bytes for term in terms)
    runtime = CUDA_CONTEXT_BYTES if step.device == "cuda" else CPU_RUNTIME_BYTES
    slack = int(allocated * SLACK)
    terms += [Term("allocator slack", slack), Term("runtime", runtime)]
    return MemoryPlan(tuple(terms), allocated, allocated + slack + runtime)


def weight_bytes(anatomy: Anatomy, step: Step) -> int:
    """Bytes of the base: linear maps by their storage, everything else in the arithmetic's precision."""
    width = BYTES["fp32"] if step.full else BYTES[step.precision]
    linear = sum(m.out_features * m.in_features for m in anatomy.linears)
    rest = anatomy.parameters - linear
    half_copy = BYTES[step.precision] * linear if step.full and step.precision != "fp32" else 0
    if step.quant is None:
        return width * anatomy.parameters + half_copy
    return int(linear * quantised_bytes(step.quant)) + width * rest


def quantised_bytes(quant: QuantPoint) -> float:
    """Bytes per quantised weight with its constants: 4 bits and absmax, or 8 bits and one scale a row.

    4-bit constants: fp32 per block of 64; doubly quantised: 8 bits, and fp32 per 256 of these (arXiv 2305.14314).
    """
    if quant.kind == "int8":
        return 1.0
    absmax = 1 + 4 / DOUBLE_QUANT_BLOCK if quant.double_quant else 4
    return 0.5 + absmax / NF4_BLOCK


def activation_bytes(anatomy: Anatomy, step: Step, tokens: int) -> int:
    """Bytes that autograd keeps between forward and backward for `tokens` tokens."""
    width = BYTES[step.precision]
    layer = _layer_numbers(anatomy, step) * width * tokens + 8 * anatomy.hidden * tokens
    checkpoint = anatomy.hidden * width * tokens
    if step.recompute == "full":
        return anatomy.layers * checkpoint + layer
    return anatomy.layers * layer


def _layer_numbers(anatomy: Anatomy, step: Step) -> int:
    """Numbers kept per token by one decoder layer: inputs of every matrix, attention and feed-forward products."""
    heads = anatomy.head_dim * (2 * anatomy.heads + 2 * anatomy.kv_heads)
    feed_forward = (4 if anatomy.gated else 2) * anatomy.intermediate
    norms = 4 * anatomy.hidden
    per_layer = max(1, len(anatomy.linears) // max(1, anatomy.layers))
    adapters = step.adapter_rank * per_layer + (anatomy.hidden * per_layer if step.adapter_rank else 0)
    return heads + feed_forward + norms + adapters


def logit_bytes(anatomy: Anatomy, step: Step, tokens: int) -> int:
    """Bytes of logits: one chunk and its gradient in our own loss, all of them twice in fp32 elsewhere."""
    if step.engine == "own":
        hidden = 2 * tokens * anatomy.hidden * BYTES[step.precision]
        return hidden + 2 * min(LOSS_CHUNK_BYTES, 4 * tokens * anatomy.vocabulary)
    return tokens * anatomy.vocabulary * (BYTES[step.precision] + 8)


def _largest_matrix(anatomy: Anatomy) -> int:
    return max((m.out_features * m.in_features for m in anatomy.linears), default=0)


def choose(anatomy: Anatomy, step: Step, batch_blocks: int, budget_bytes: int) -> tuple[Step, MemoryPlan] | None:
    """The largest micro-batch, then the least recompute, that fit; None where nothing does.

    The effective batch never changes: only divisors of `batch_blocks` are tried.
    """
    from dataclasses import replace

    divisors = [n for n in range(batch_blocks, 0, -1) if batch_blocks % n == 0]
    for recompute in ("none", "full"):
        for micro_blocks in divisors:
            candidate = replace(step, micro_blocks=micro_blocks, recompute=recompute)
            plan = estimate(anatomy, candidate)
            if plan.fits(budget_bytes):
                return candidate, plan
    return None
