"""Linear maps and their adapters as lifetimes: PEFT's own modules, or this package's lean one. Called by `plan.layers`."""

from __future__ import annotations

from collections.abc import Callable

from peftodyssey.memory.autograd_simulator import Grads, Storage, Var
from peftodyssey.memory.op_memory import OpContext, add, cast, same_size
from peftodyssey.model_shape import LinearShape

NF4_BLOCK = 64


def dequantised(math: OpContext, matrix: LinearShape) -> Storage | None:
    """A 4-bit weight unpacked for one product, None where it is not quantised; its constants in fp32 come and go."""
    if math.quant is None:
        return None
    numbers = matrix.in_features * matrix.out_features
    if math.quant.kind == "int8":
        return math.tape.make(0, 1, "workspace")
    absmax = -(-numbers // NF4_BLOCK) * 4 if math.quant.double_quant else 0
    constants = math.tape.make(absmax, 1, "workspace")
    unpacked = math.tape.make(numbers, math.width, "workspace")
    constants.drop()
    return unpacked


def linear(math: OpContext, x: Var, matrix: LinearShape, rank: int) -> Var:
    """One linear map of the decoder with its adapter (rank 0: none)."""
    if rank:
        return (_lean_lora if math.lean else _stock_lora)(math, x, matrix, rank)
    if math.lean and math.trains_base and math.autocast:
        return _lean_trained(math, x, matrix)
    return _plain(math, x, matrix)


def _plain(math: OpContext, x: Var, matrix: LinearShape) -> Var:
    if x.width != math.width:  # autocast makes a copy for each product
        narrow = cast(math, x, math.width)
        out = _plain(math, narrow, matrix)
        narrow.drop()
        return out
    tape, n = math.tape, x.numbers // matrix.in_features
    numbers = matrix.in_features * matrix.out_features
    if math.trains_base and math.autocast:
        copy = tape.make(numbers, math.width, "weight copies")
        if math.casts is not None:
            math.casts.append(copy.hold())
    else:
        copy = dequantised(math, matrix) or tape.make(0, 1)
    out = tape.make(n * matrix.out_features, math.width)

    def backward(grad: Storage) -> Grads:
        weight = None if math.trains_base else dequantised(math, matrix)
        made = tape.make(x.numbers, x.width) if x.needs_grad else None
        if weight is not None:
            weight.drop()
        if math.trains_base:
            if math.autocast:
                narrow = tape.make(numbers, math.width, "gradients")
                math.gradient(matrix.name, numbers)
                narrow.drop()
            else:
                math.gradient(matrix.name, numbers)
        return [made]

    saved = [x.storage, copy] if math.trains_base else []
    result = tape.op([x], out, n * matrix.out_features, math.width, backward, saved, trains=math.trains_base)
    copy.drop()
    return result


def _lean_trained(math: OpContext, x: Var, matrix: LinearShape) -> Var:
    """A weight in fp32 multiplied in the narrow type: cast for each product, the narrow input kept."""
    tape, n = math.tape, x.numbers // matrix.in_features
    numbers = matrix.in_features * matrix.out_features
    narrow = tape.make(x.numbers, math.width) if x.width != math.width else x.storage.hold()
    weight = tape.make(numbers, math.width, "weight copies")
    out = tape.make(n * matrix.out_features, math.width)
    weight.drop()

    def backward(grad: Storage) -> Grads:
        copy = tape.make(numbers, math.width, "weight copies")
        made = tape.make(x.numbers, math.width)
        copy.drop()
        if x.width != math.width:
            made.drop()
            made = tape.make(x.numbers, x.width)
        by_weight = tape.make(numbers, math.width, "gradients")
        math.gradient(matrix.name, numbers)
        by_weight.drop()
        return [made]

    result = tape.op([x], out, n * matrix.out_features, math.width, backward, [narrow], trains=True)
    narrow.drop()
    return result


def _stock_lora(math: OpContext, x: Var, matrix: LinearShape, rank: int) -> Var:
    """PEFT's module: adapters in fp32, the input cast to it once a target, its product scaled and cast back."""
    tape, n = math.tape, x.numbers // matrix.in_features
    base = _plain(math, x, matrix)
    if math.quant is not None and math.quant.kind != "int8":
        clone = same_size(math, base)
        base.drop()
        base = clone
    low_width = math.width if math.autocast else 4
    wide = cast(math, x, 4) if not math.autocast else _autocast_copy(math, x)
    low_out = tape.make(n * rank, low_width)
    low = tape.op(
        [wide],
        low_out,
        n * rank,
        low_width,
        _matrix_grads(math, wide, matrix.name + ".A", rank * matrix.in_features),
        [wide.storage],
        True,
    )
    wide.drop()
    up_out = tape.make(n * matrix.out_features, low_width)
    up = tape.op(
        [low],
        up_out,
        n * matrix.out_features,
        low_width,
        _matrix_grads(math, low, matrix.name + ".B", rank * matrix.out_features),
        [low.storage],
        True,
    )
    low.drop()
    scaled = same_size(math, up)
    up.drop()
    quantised = math.quant is not None and math.quant.kind != "int8"
    narrow = (
        cast(math, scaled, base.width)
        if quantised
        else Var(scaled.storage.hold(), scaled.numbers, scaled.width, scaled.node, scaled.needs_grad)
    )
    scaled.drop()
    total = add(math, base, narrow)
    base.drop()
    narrow.drop()
    out = cast(math, total, math.width)
    total.drop()
    return out


def _autocast_copy(math: OpContext, x: Var) -> Var:
    """Under autocast PEFT casts to fp32 and torch casts back for the product: a copy of its own in the narrow type."""
    return same_size(math, x)


def _matrix_grads(math: OpContext, x: Var, name: str, numbers: int) -> Callable[[Storage], Grads]:
    def backward(grad: Storage) -> Grads:
        made = math.tape.make(x.numbers, x.width) if x.needs_grad else None
        math.gradient(name, numbers, 4)
        return [made]

    return backward


def _lean_lora(math: OpContext, x: Var, matrix: LinearShape, rank: int) -> Var:
    """One function: it keeps its input, the low-rank product and nothing else."""
    tape, n = math.tape, x.numbers // matrix.in_features
    out_numbers = n * matrix.out_features
    weight = dequantised(math, matrix)
    out = tape.make(out_numbers, math.width)
    if weight is not None:
        weight.drop()
    low = tape.make(n * rank, math.width)
    tape.transient(out_numbers * math.width)

    def backward(grad: Storage) -> Grads:
        unpacked = dequantised(math, matrix)
        made = tape.make(x.numbers, math.width) if x.needs_grad else None
        if unpacked is not None:
            unpacked.drop()
        if math.members > 1:  # added to what the fleet holds, from products in the narrow type
            tape.transient(math.members * rank * matrix.out_features * math.width)
        low_grad = tape.make(n * rank, math.width)
        if math.members > 1:
            tape.transient(math.members * rank * matrix.in_features * math.width)
        else:
            math.gradient(matrix.name + ".B", rank * matrix.out_features, 4)
            math.gradient(matrix.name + ".A", rank * matrix.in_features, 4)
        low_grad.drop()
        return [made]

    result = tape.op([x], out, out_numbers, math.width, backward, [x.storage, low], trains=True)
    low.drop()
    return result
