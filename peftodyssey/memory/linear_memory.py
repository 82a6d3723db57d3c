"""What linear layers and their adapters allocate: PEFT's own modules, or the native engine's functions."""

from __future__ import annotations

from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage
from peftodyssey.memory.op_memory import OpContext, add, cast, elementwise, free_inputs
from peftodyssey.model_shape import LinearShape

NF4_BLOCK = 64


def dequantized_weight(ctx: OpContext, linear: LinearShape) -> Storage | None:
    """A 4-bit weight dequantised for one product, None where it is not quantised; its fp32 constants are transient."""
    if ctx.quant is None:
        return None
    if ctx.quant.kind == "int8":
        return ctx.tape.alloc(0, 1, "workspace")
    numel = linear.in_features * linear.out_features
    absmax_bytes = -(-numel // NF4_BLOCK) * 4 if ctx.quant.double_quant else 0
    absmax = ctx.tape.alloc(absmax_bytes, 1, "workspace")
    weight = ctx.tape.alloc(numel, ctx.itemsize, "workspace")
    absmax.release()
    return weight


def linear_layer(ctx: OpContext, x: SimTensor, linear: LinearShape, rank: int) -> SimTensor:
    """One linear layer of the decoder with its adapter (rank 0: none)."""
    if rank:
        return (_native_lora if ctx.native else _peft_lora)(ctx, x, linear, rank)
    if ctx.native and ctx.trains_base and ctx.autocast:
        return _native_trained_linear(ctx, x, linear)
    return _torch_linear(ctx, x, linear)


def _torch_linear(ctx: OpContext, x: SimTensor, linear: LinearShape) -> SimTensor:
    if x.itemsize != ctx.itemsize:  # autocast casts the input for each product
        narrow = cast(ctx, x, ctx.itemsize)
        return free_inputs(_torch_linear(ctx, narrow, linear), narrow)
    tape, numel = ctx.tape, linear.in_features * linear.out_features
    if ctx.trains_base and ctx.autocast:
        weight = tape.alloc(numel, ctx.itemsize, "weight copies")
        if ctx.autocast_cache is not None:
            ctx.autocast_cache.append(weight.retain())
    else:
        weight = dequantized_weight(ctx, linear) or tape.alloc(0, 1)
    output = tape.tensor(x.numel // linear.in_features * linear.out_features, ctx.itemsize)

    def backward(grad: Storage) -> Grads:
        dequantized = None if ctx.trains_base else dequantized_weight(ctx, linear)
        grad_x = tape.alloc(x.numel, x.itemsize) if x.requires_grad else None
        tape.free(dequantized)
        if ctx.trains_base:
            _weight_grad(ctx, linear)
        return [grad_x]

    saved = [x.storage, weight] if ctx.trains_base else []
    tape.record([x], output, backward, saved, trains=ctx.trains_base)
    weight.release()
    return output


def _weight_grad(ctx: OpContext, linear: LinearShape) -> None:
    """The gradient of a trained weight; under autocast it is first computed in the narrow type."""
    numel = linear.in_features * linear.out_features
    narrow = ctx.tape.alloc(numel, ctx.itemsize, "gradients") if ctx.autocast else None
    ctx.accumulate_grad(linear.name, numel)
    ctx.tape.free(narrow)


def _native_trained_linear(ctx: OpContext, x: SimTensor, linear: LinearShape) -> SimTensor:
    """A trained fp32 weight multiplied in the narrow type: cast for each product; the narrow input is saved."""
    tape, numel = ctx.tape, linear.in_features * linear.out_features
    narrow_input = x.storage.retain() if x.itemsize == ctx.itemsize else tape.alloc(x.numel, ctx.itemsize)
    weight = tape.alloc(numel, ctx.itemsize, "weight copies")
    output = tape.tensor(x.numel // linear.in_features * linear.out_features, ctx.itemsize)
    weight.release()

    def backward(grad: Storage) -> Grads:
        narrow_weight = tape.alloc(numel, ctx.itemsize, "weight copies")
        grad_x = tape.alloc(x.numel, ctx.itemsize)
        narrow_weight.release()
        if x.itemsize != ctx.itemsize:
            grad_x.release()
            grad_x = tape.alloc(x.numel, x.itemsize)
        _weight_grad(ctx, linear)
        return [grad_x]

    tape.record([x], output, backward, [narrow_input], trains=True)
    narrow_input.release()
    return output


def _peft_lora(ctx: OpContext, x: SimTensor, linear: LinearShape, rank: int) -> SimTensor:
    """PEFT's module: adapters in fp32; each target casts the input to fp32, and scales and casts back the product."""
    is_4bit = ctx.quant is not None and ctx.quant.kind != "int8"
    base = _torch_linear(ctx, x, linear)
    if is_4bit:
        base = free_inputs(elementwise(ctx, base), base)
    # under autocast PEFT casts to fp32 and torch casts back for the product: a copy in the narrow type
    lora_input = elementwise(ctx, x) if ctx.autocast else cast(ctx, x, 4)
    low_rank = free_inputs(_lora_matrix(ctx, lora_input, f"{linear.name}.A", linear.in_features, rank), lora_input)
    update = free_inputs(_lora_matrix(ctx, low_rank, f"{linear.name}.B", rank, linear.out_features), low_rank)
    scaled = free_inputs(elementwise(ctx, update), update)
    scaled = free_inputs(cast(ctx, scaled, base.itemsize) if is_4bit else scaled.alias(), scaled)
    total = free_inputs(add(ctx, base, scaled), base, scaled)
    return free_inputs(cast(ctx, total, ctx.itemsize), total)


def _lora_matrix(ctx: OpContext, x: SimTensor, name: str, in_features: int, out_features: int) -> SimTensor:
    """The product with lora_A or lora_B."""
    output = ctx.tape.tensor(x.numel // in_features * out_features, ctx.itemsize if ctx.autocast else 4)

    def backward(grad: Storage) -> Grads:
        grad_x = ctx.tape.alloc(x.numel, x.itemsize) if x.requires_grad else None
        ctx.accumulate_grad(name, in_features * out_features, 4)
        return [grad_x]

    return ctx.tape.record([x], output, backward, [x.storage], trains=True)


def _native_lora(ctx: OpContext, x: SimTensor, linear: LinearShape, rank: int) -> SimTensor:
    """The native engine's function: it saves its input and the product with lora_A."""
    tape, tokens = ctx.tape, x.numel // linear.in_features
    weight = dequantized_weight(ctx, linear)
    output = tape.tensor(tokens * linear.out_features, ctx.itemsize)
    tape.free(weight)
    low_rank = tape.alloc(tokens * rank, ctx.itemsize)
    tape.transient(output.numel * ctx.itemsize)

    def backward(grad: Storage) -> Grads:
        dequantized = dequantized_weight(ctx, linear)
        grad_x = tape.alloc(x.numel, ctx.itemsize) if x.requires_grad else None
        tape.free(dequantized)
        several = ctx.multi_lora_size > 1  # their gradients exist already; products in the narrow type are added
        if several:
            tape.transient(ctx.multi_lora_size * rank * linear.out_features * ctx.itemsize)
        grad_low_rank = tape.alloc(tokens * rank, ctx.itemsize)
        if several:
            tape.transient(ctx.multi_lora_size * rank * linear.in_features * ctx.itemsize)
        else:
            ctx.accumulate_grad(f"{linear.name}.B", rank * linear.out_features, 4)
            ctx.accumulate_grad(f"{linear.name}.A", rank * linear.in_features, 4)
        grad_low_rank.release()
        return [grad_x]

    tape.record([x], output, backward, [x.storage, low_rank], trains=True)
    low_rank.release()
    return output
