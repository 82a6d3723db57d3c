"""What each operation of a decoder allocates, saves for backward and needs while it runs.

One function per operation, in two versions where they differ: transformers' own modules, and the native engine's
functions. Linear layers and their adapters are in `linear_memory`. An itemsize is bytes per element.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peftodyssey.constants import CHUNK_BYTES
from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage, Tape
from peftodyssey.recipe.cell import QuantSpec

MAX_GRADS_IN_FLIGHT = 2  # gradients that a card holds while they are copied to the host


@dataclass
class OpContext:
    """How the step computes, and the weight gradients that exist so far."""

    tape: Tape
    itemsize: int  # of activations and of matrix products
    residual_itemsize: int  # of the residual stream: 4 under autocast over fp32 weights
    native: bool  # the native engine's functions instead of transformers' and PEFT's modules
    autocast: bool  # transformers under torch.autocast, weights in fp32
    quant: QuantSpec | None
    trains_base: bool
    weight_itemsize: int  # of a trained weight and of its gradient
    offload_grads: bool = False  # gradients are copied to the host as they are computed
    multi_lora_size: int = 1  # adapters trained together
    weight_grads: dict[str, Storage] = field(default_factory=dict)
    grads_in_flight: list[Storage] = field(default_factory=list)  # being copied to the host
    autocast_cache: list[Storage] | None = None  # casts of weights, kept until the forward pass ends

    def accumulate_grad(self, name: str, numel: int, itemsize: int | None = None) -> None:
        """The gradient of a trained weight: the first one is kept, later ones are added to it in place."""
        grad = self.tape.alloc(numel, itemsize or self.weight_itemsize, "gradients")
        if self.offload_grads:
            self.grads_in_flight.append(grad)
            if len(self.grads_in_flight) > MAX_GRADS_IN_FLIGHT:
                self.grads_in_flight.pop(0).release()
        elif name in self.weight_grads:
            grad.release()
        else:
            self.weight_grads[name] = grad


def free_inputs(output: SimTensor, *inputs: SimTensor) -> SimTensor:
    """`output`, after its inputs went out of scope."""
    for tensor in inputs:
        tensor.release()
    return output


def elementwise(
    ctx: OpContext, x: SimTensor, saved: tuple[Storage, ...] = (), itemsize: int | None = None
) -> SimTensor:
    """An elementwise operation of one input; its backward allocates one gradient of the input's size."""
    output = ctx.tape.tensor(x.numel, itemsize or x.itemsize)
    return ctx.tape.record([x], output, lambda grad: [ctx.tape.alloc(x.numel, x.itemsize)], saved)


def cast(ctx: OpContext, x: SimTensor, itemsize: int) -> SimTensor:
    """A copy in another type; the same tensor where the type is the same."""
    return x.alias() if x.itemsize == itemsize else elementwise(ctx, x, itemsize=itemsize)


def add(ctx: OpContext, left: SimTensor, right: SimTensor) -> SimTensor:
    """A sum: both inputs get its gradient."""
    itemsize = max(left.itemsize, right.itemsize)

    def backward(grad: Storage) -> Grads:
        return [grad.retain() if t.itemsize == itemsize else ctx.tape.alloc(t.numel, t.itemsize) for t in (left, right)]

    return ctx.tape.record([left, right], ctx.tape.tensor(left.numel, itemsize), backward)


def rms_norm(ctx: OpContext, x: SimTensor, name: str, size: int) -> SimTensor:
    """RMSNorm over the last `size` elements."""
    return (_native_rms_norm if ctx.native else _transformers_rms_norm)(ctx, x, name, size)


def _native_rms_norm(ctx: OpContext, x: SimTensor, name: str, size: int) -> SimTensor:
    """The native engine's: it saves only its input and works in chunks of fp32."""
    tape, chunk = ctx.tape, min(CHUNK_BYTES, 4 * x.numel)
    tape.transient(chunk, chunk)

    def backward(grad: Storage) -> Grads:
        grad_x = tape.alloc(x.numel, x.itemsize)
        tape.transient(chunk, chunk, chunk)
        if ctx.trains_base:
            ctx.accumulate_grad(name, size)
        return [grad_x]

    return tape.record([x], tape.tensor(x.numel, ctx.itemsize), backward, [x.storage], trains=ctx.trains_base)


def _transformers_rms_norm(ctx: OpContext, x: SimTensor, name: str, size: int) -> SimTensor:
    """transformers': it saves the input in fp32, the inverse root and, for a trained weight, the normed input."""
    tape = ctx.tape
    wide = tape.alloc(x.numel, 4)
    tape.transient(4 * x.numel)
    inverse_root = tape.alloc(x.numel // size, 4)
    normed = tape.alloc(x.numel, 4)
    if x.itemsize != 4:
        narrow = tape.alloc(x.numel, x.itemsize)
        normed.release()
        normed = narrow
    output = tape.tensor(x.numel, x.itemsize)

    def backward(grad: Storage) -> Grads:
        if ctx.trains_base:
            tape.transient(x.numel * x.itemsize)
            ctx.accumulate_grad(name, size)
        grad_normed = tape.alloc(x.numel, x.itemsize)
        if x.itemsize != 4:
            narrow_grad, grad_normed = grad_normed, tape.alloc(x.numel, 4)
            narrow_grad.release()
        grad_x = tape.alloc(x.numel, 4)
        tape.transient(4 * x.numel, term="activations")
        grad_normed.release()
        grad_squares = tape.alloc(x.numel, 4)
        tape.transient(4 * x.numel)
        grad_squares.release()
        if x.itemsize != 4:
            wide_grad, grad_x = grad_x, tape.alloc(x.numel, x.itemsize)
            wide_grad.release()
        return [grad_x]

    saved = [wide, inverse_root, *([normed] if ctx.trains_base else [])]
    tape.record([x], output, backward, saved, trains=ctx.trains_base)
    tape.free(wide, inverse_root, normed)
    return output


def olmo_layer_norm(ctx: OpContext, x: SimTensor, name: str, size: int) -> SimTensor:
    """OLMo's layer norm: computed on a copy in fp32 and cast back; the native engine uses torch's own."""
    if ctx.native:
        return layer_norm(ctx, x, name, size)
    wide = cast(ctx, x, 4)
    normed = free_inputs(layer_norm(ctx, wide, name, size), wide)
    return free_inputs(cast(ctx, normed, x.itemsize), normed)


def layer_norm(ctx: OpContext, x: SimTensor, name: str, size: int) -> SimTensor:
    """torch's fused layer norm: it saves its input and two numbers per token."""
    tape = ctx.tape
    output, statistics = tape.tensor(x.numel, x.itemsize), tape.alloc(2 * (x.numel // size), 4)

    def backward(grad: Storage) -> Grads:
        if ctx.trains_base:
            ctx.accumulate_grad(name, 2 * size)
        return [tape.alloc(x.numel, x.itemsize)]

    tape.record([x], output, backward, [x.storage, statistics], trains=ctx.trains_base)
    statistics.release()
    return output


def gated_product(ctx: OpContext, gate: SimTensor, up: SimTensor) -> SimTensor:
    """act(gate) * up: the native engine saves gate and up, torch also saves the activation."""
    tape = ctx.tape
    if not ctx.native:
        active = elementwise(ctx, gate, (gate.storage,))
        return free_inputs(_product(ctx, active, up), active)
    chunk = min(CHUNK_BYTES, 4 * gate.numel)
    output = tape.tensor(gate.numel, gate.itemsize)
    tape.transient(chunk, chunk)

    def backward(grad: Storage) -> Grads:
        grads = [tape.alloc(gate.numel, gate.itemsize), tape.alloc(up.numel, up.itemsize)]
        tape.transient(chunk, chunk, chunk)
        return grads

    return tape.record([gate, up], output, backward, [gate.storage, up.storage])


def _product(ctx: OpContext, left: SimTensor, right: SimTensor) -> SimTensor:
    def backward(grad: Storage) -> Grads:
        return [ctx.tape.alloc(left.numel, left.itemsize), ctx.tape.alloc(right.numel, right.itemsize)]

    output = ctx.tape.tensor(left.numel, left.itemsize)
    return ctx.tape.record([left, right], output, backward, [left.storage, right.storage])


def python_gelu(ctx: OpContext, x: SimTensor) -> SimTensor:
    """GPT-2's tanh-GELU written in Python operations: it saves x / 2, x, the tanh and 1 + tanh."""
    tape = ctx.tape
    size = x.numel * x.itemsize
    intermediates = [tape.alloc(x.numel, x.itemsize) for _ in range(3)]
    tape.transient(size, size)
    output = tape.tensor(x.numel, x.itemsize)

    def backward(grad: Storage) -> Grads:
        grad_x = tape.alloc(x.numel, x.itemsize)
        tape.transient(size, size, size)
        return [grad_x]

    tape.record([x], output, backward, [x.storage, *intermediates])
    tape.free(*intermediates)
    return output
