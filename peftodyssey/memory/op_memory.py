"""The operations of a decoder as lifetimes: what each allocates, saves for backward and needs while it runs.

One function an operation, in the form that runs: transformers' own modules, or this package's lean ones. Linear maps
and their adapters are in `plan.linears`. Called by `plan.layers`. Widths are bytes a number; `n` is the number of
tokens in the micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peftodyssey.constants import CHUNK_BYTES
from peftodyssey.memory.autograd_simulator import Grads, Storage, Tape, Var
from peftodyssey.recipe.cell import QuantSpec

MOST_LEAVING = 2  # gradients that a card holds while they go to the host


@dataclass
class OpContext:
    """How the step's arithmetic is done, and the gradients that exist so far."""

    tape: Tape
    width: int  # of activations: what matrices are multiplied in
    stream: int  # of the residual stream: fp32 where the weights are, under autocast
    lean: bool
    autocast: bool  # transformers under torch.autocast, weights in fp32
    quant: QuantSpec | None
    trains_base: bool
    weight_width: int  # of a trained weight and of its gradient
    host_gradients: bool = False  # gradients leave for the host as they are made
    leaving: list[Storage] = field(default_factory=list)  # gradients on their way to the host
    members: int = 1  # adapters that train side by side
    gradients: dict[str, Storage] = field(default_factory=dict)
    casts: list[Storage] | None = None  # autocast's copies of weights, kept to the end of a forward pass

    def gradient(self, name: str, numbers: int, width: int | None = None) -> None:
        """The gradient of a trained weight: the first is kept, later ones are added in place."""
        made = self.tape.make(numbers, width or self.weight_width, "gradients")
        if self.host_gradients:
            self.leaving.append(made)
            if len(self.leaving) > MOST_LEAVING:
                self.leaving.pop(0).drop()
        elif name in self.gradients:
            made.drop()
        else:
            self.gradients[name] = made


def same_size(
    math: OpContext, x: Var, saved: tuple[Storage, ...] = (), *, width: int | None = None, temporary: int = 0
) -> Var:
    """An elementwise operation of one input; backward makes one gradient of the input's size."""
    width = width or x.width
    out = math.tape.make(x.numbers, width)

    def backward(grad: Storage) -> Grads:
        if temporary:
            math.tape.transient(temporary)
        return [math.tape.make(x.numbers, x.width)]

    return math.tape.op([x], out, x.numbers, width, backward, saved)


def cast(math: OpContext, x: Var, width: int) -> Var:
    """A copy in another type; the same tensor where the type is the same."""
    if x.width == width:
        return Var(x.storage.hold(), x.numbers, x.width, x.node, x.needs_grad)
    return same_size(math, x, width=width)


def add(math: OpContext, left: Var, right: Var) -> Var:
    """A sum: the gradient goes to both."""
    width = max(left.width, right.width)
    out = math.tape.make(left.numbers, width)

    def backward(grad: Storage) -> Grads:
        return [grad.hold() if v.width == width else math.tape.make(v.numbers, v.width) for v in (left, right)]

    return math.tape.op([left, right], out, left.numbers, width, backward)


def rms_norm(math: OpContext, x: Var, name: str, size: int) -> Var:
    """RMS norm: transformers keeps fp32 copies, the lean one its input alone."""
    tape, n = math.tape, x.numbers // size
    if math.lean:
        chunk = min(CHUNK_BYTES, 4 * x.numbers)
        tape.transient(chunk, chunk)
        out = tape.make(x.numbers, math.width)

        def lean_backward(grad: Storage) -> Grads:
            made = tape.make(x.numbers, x.width)
            tape.transient(chunk, chunk, chunk)
            if math.trains_base:
                math.gradient(name, size)
            return [made]

        return tape.op([x], out, x.numbers, math.width, lean_backward, [x.storage], trains=math.trains_base)
    wide = tape.make(x.numbers, 4)
    tape.transient(4 * x.numbers)
    root = tape.make(n, 4)
    scaled = tape.make(x.numbers, 4)
    narrow = scaled if x.width == 4 else tape.make(x.numbers, x.width)
    if narrow is not scaled:
        scaled.drop()
    out = tape.make(x.numbers, x.width)

    def backward(grad: Storage) -> Grads:
        if math.trains_base:
            tape.transient(x.numbers * x.width)
            math.gradient(name, size)
        first = tape.make(x.numbers, x.width)
        wide_grad = first if x.width == 4 else tape.make(x.numbers, 4)
        if wide_grad is not first:
            first.drop()
        by_root = tape.make(x.numbers, 4)
        by_value = tape.make(x.numbers, 4)
        by_value.drop()
        wide_grad.drop()
        squares = tape.make(x.numbers, 4)
        tape.transient(4 * x.numbers)
        squares.drop()
        last = by_root if x.width == 4 else tape.make(x.numbers, x.width)
        if last is not by_root:
            by_root.drop()
        return [last]

    saved = [wide, root, *([narrow] if math.trains_base else [])]
    result = tape.op([x], out, x.numbers, x.width, backward, saved, trains=math.trains_base)
    for storage in (wide, root, narrow):
        storage.drop()
    return result


def wide_layer_norm(math: OpContext, x: Var, name: str, size: int) -> Var:
    """OLMo's layer norm: of a copy in fp32, and back; the lean one is torch's own."""
    if math.lean:
        return layer_norm(math, x, name, size)
    wide = cast(math, x, 4)
    normed = layer_norm(math, wide, name, size)
    wide.drop()
    narrow = cast(math, normed, x.width)
    normed.drop()
    return narrow


def layer_norm(math: OpContext, x: Var, name: str, size: int) -> Var:
    """torch's fused layer norm: it saves its input and two numbers a token."""
    tape, n = math.tape, x.numbers // size
    out, means = tape.make(x.numbers, x.width), tape.make(2 * n, 4)

    def backward(grad: Storage) -> Grads:
        if math.trains_base:
            math.gradient(name, 2 * size)
        return [tape.make(x.numbers, x.width)]

    result = tape.op([x], out, x.numbers, x.width, backward, [x.storage, means], trains=math.trains_base)
    means.drop()
    return result


def gated_product(math: OpContext, gate: Var, up: Var) -> Var:
    """act(gate) * up; the lean one keeps gate and up, torch's also the activation."""
    tape = math.tape
    if not math.lean:
        active = same_size(math, gate, (gate.storage,))
        out = _product(math, active, up)
        active.drop()
        return out
    chunk = min(CHUNK_BYTES, 4 * gate.numbers)
    out = tape.make(gate.numbers, gate.width)
    tape.transient(chunk, chunk)

    def backward(grad: Storage) -> Grads:
        made: Grads = [tape.make(gate.numbers, gate.width), tape.make(up.numbers, up.width)]
        tape.transient(chunk, chunk, chunk)
        return made

    return tape.op([gate, up], out, gate.numbers, gate.width, backward, [gate.storage, up.storage])


def _product(math: OpContext, left: Var, right: Var) -> Var:
    out = math.tape.make(left.numbers, left.width)

    def backward(grad: Storage) -> Grads:
        return [math.tape.make(left.numbers, left.width), math.tape.make(right.numbers, right.width)]

    return math.tape.op([left, right], out, left.numbers, left.width, backward, [left.storage, right.storage])


def composed_gelu(math: OpContext, x: Var) -> Var:
    """GPT-2's tanh-GELU written out in Python: it keeps half of x, x, the tanh and one plus it."""
    tape = math.tape
    size = x.numbers * x.width
    half, tanh, one = (tape.make(x.numbers, x.width) for _ in range(3))
    tape.transient(size, size)
    out = tape.make(x.numbers, x.width)

    def backward(grad: Storage) -> Grads:
        made = tape.make(x.numbers, x.width)
        tape.transient(size, size, size)
        return [made]

    result = tape.op([x], out, x.numbers, x.width, backward, [x.storage, half, tanh, one])
    for storage in (half, tanh, one):
        storage.drop()
    return result
