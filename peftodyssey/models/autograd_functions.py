"""Custom `torch.autograd.Function`s that save less for the backward pass than torch and PEFT do.

A frozen 4-bit weight is dequantised in the forward and again in the backward pass, and is not saved. Adapters and
trained weights keep their own (wide) dtype and are cast for each product. Norms and gated activations process rows in
chunks, so that their float32 temporaries stay small. Shapes: n tokens, i inputs, o outputs, r rank, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftodyssey.constants import CHUNK_BYTES
from peftodyssey.models import compiled_ops


class FrozenLinear(NamedTuple):
    """The base layer of a LoRA module."""

    weight_oi: Callable[[], Tensor]  # dequantises the weight, or returns it
    bias_o: Tensor | None


def lora_linear(
    x: Tensor, x_dropped: Tensor | None, lora_A_ri: Tensor, lora_B_or: Tensor, base: FrozenLinear, scaling: float
) -> Tensor:
    """`x @ W.T + bias + scaling * (x_dropped @ lora_A.T) @ lora_B.T`.

    `x_dropped` is `x` after dropout, None where there is none. Products are computed in the dtype of W; gradients of
    lora_A and lora_B have theirs. Saved for backward: the adapter's input and its product with lora_A.
    """
    result: Tensor = _LoRALinear.apply(x, x_dropped, lora_A_ri, lora_B_or, base, scaling)
    return result


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_dropped: Tensor | None,
        lora_A_ri: Tensor,
        lora_B_or: Tensor,
        base: FrozenLinear,
        scaling: float,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight, bias_o = base.weight_oi(), base.bias_o
            compute = weight.dtype
            x_ni = _rows(x).to(compute)
            out_no = F.linear(x_ni, weight, None if bias_o is None else bias_o.to(compute))
            del weight
            adapter_in_ni = x_ni if x_dropped is None else _rows(x_dropped).to(compute)
            low_rank_nr = adapter_in_ni @ lora_A_ri.to(compute).T
            out_no.addmm_(low_rank_nr, lora_B_or.to(compute).T, alpha=scaling)
        ctx.save_for_backward(adapter_in_ni, low_rank_nr, lora_A_ri, lora_B_or)
        ctx.more = base, scaling, x.shape, x.dtype, None if x_dropped is None else x_dropped.dtype
        return out_no.view(*x.shape[:-1], out_no.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        adapter_in_ni, low_rank_nr, lora_A_ri, lora_B_or = ctx.saved_tensors
        base, scaling, shape, x_dtype, dropped_dtype = ctx.more
        needs_x, needs_dropped, needs_A, needs_B = ctx.needs_input_grad[:4]
        grad_no = _rows(grad).to(adapter_in_ni.dtype)
        grad_x = grad_no @ base.weight_oi() if needs_x else None
        grad_B = product(grad_no.T, low_rank_nr, lora_B_or.dtype).mul_(scaling) if needs_B else None
        grad_low_rank_nr = (grad_no @ lora_B_or.to(grad_no.dtype)).mul_(scaling)
        grad_A = product(grad_low_rank_nr.T, adapter_in_ni, lora_A_ri.dtype) if needs_A else None
        grad_dropped = None
        if dropped_dtype is None:
            if grad_x is not None:
                grad_x.addmm_(grad_low_rank_nr, lora_A_ri.to(grad_no.dtype))
        elif needs_dropped:
            grad_dropped = (grad_low_rank_nr @ lora_A_ri.to(grad_no.dtype)).to(dropped_dtype).view(shape)
        grad_x = None if grad_x is None else grad_x.to(x_dtype).view(shape)
        return grad_x, grad_dropped, grad_A, grad_B, None, None


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """`a @ b` in `dtype`, of matrices or of batches of matrices.

    On a GPU a product of 16-bit factors in float32 is the sum as the GPU forms it, which is rounded to 16 bits
    otherwise. torch has this for CUDA only.
    """
    if a.is_cuda and dtype == torch.float32 and a.dtype in (torch.bfloat16, torch.float16):
        multiply = torch.mm if a.dim() == 2 else torch.bmm
        result: Tensor = multiply(a, b, out_dtype=dtype)
        return result
    return (a @ b).to(dtype)


def linear(x: Tensor, weight_oi: Tensor, bias_o: Tensor | None, compute: torch.dtype) -> Tensor:
    """`x @ weight.T + bias` in the dtype `compute`, for a trained weight of another dtype; no cast of it is saved."""
    result: Tensor = _Linear.apply(x, weight_oi, bias_o, compute)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_oi: Tensor, bias_o: Tensor | None, compute: torch.dtype) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_ni = _rows(x).to(compute)
            out_no = F.linear(x_ni, weight_oi.to(compute), None if bias_o is None else bias_o.to(compute))
        ctx.save_for_backward(x_ni, weight_oi, bias_o)
        ctx.more = x.shape, x.dtype
        return out_no.view(*x.shape[:-1], out_no.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_ni, weight_oi, bias_o = ctx.saved_tensors
        shape, x_dtype = ctx.more
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_no = _rows(grad).to(x_ni.dtype)
        grad_x = (grad_no @ weight_oi.to(x_ni.dtype)).to(x_dtype).view(shape) if needs_x else None
        grad_weight = product(grad_no.T, x_ni, weight_oi.dtype) if needs_weight else None
        grad_bias = grad_no.sum(0, dtype=bias_o.dtype) if bias_o is not None and needs_bias else None
        return grad_x, grad_weight, grad_bias, None


def rms_norm(x: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (1 + weight with `plus_one`), rounded once to
    `out_dtype`.

    Root mean square norm, Zhang and Sennrich, arXiv 1910.07467. Saved for backward: `x` and the weight.
    """
    result: Tensor = _RMSNorm.apply(x, weight_d, eps, plus_one, out_dtype)
    return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight_d)
        ctx.more = eps, plus_one
        compiled = compiled_ops.rms_norm(_rows(x), weight_d, eps, plus_one, out_dtype)
        if compiled is not None:
            return compiled.view(x.shape)
        out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
        scale_d = _scale(weight_d, plus_one)
        rows, out_rows = _rows(x), out.view(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            for part in _chunks(rows):
                wide, inverse_rms = _wide_and_inverse_rms(rows[part], eps)
                torch.mul(wide.mul_(inverse_rms), scale_d, out=wide)
                out_rows[part] = wide
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_d = ctx.saved_tensors
        eps, plus_one = ctx.more
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        if needs_x and not needs_weight:
            compiled = compiled_ops.rms_norm_backward(_rows(x), _rows(grad), weight_d, eps, plus_one)
            if compiled is not None:
                return compiled.view(x.shape), None, None, None, None
        scale_d = _scale(weight_d, plus_one)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else None
        grad_weight_d = torch.zeros_like(scale_d) if needs_weight else None
        x_rows, grad_rows = _rows(x), _rows(grad)
        for part in _chunks(x_rows):
            normed, inverse_rms = _wide_and_inverse_rms(x_rows[part], eps)
            normed.mul_(inverse_rms)
            grad_normed = grad_rows[part].to(normed.dtype)
            if grad_weight_d is not None:
                grad_weight_d += (grad_normed * normed).sum(0)
            if grad_x is None:
                continue
            grad_normed = grad_normed * scale_d
            projection = (grad_normed * normed).mean(1, keepdim=True)
            grad_x.view(-1, x.shape[-1])[part] = grad_normed.sub_(normed.mul_(projection)).mul_(inverse_rms)
        return grad_x, None if grad_weight_d is None else grad_weight_d.to(weight_d.dtype), None, None, None


def _wide_and_inverse_rms(rows_nd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A copy of rows in float32 or wider, and 1 / root mean square of each row."""
    wide = rows_nd.to(torch.promote_types(rows_nd.dtype, torch.float32), copy=True)
    return wide, wide.square().mean(1, keepdim=True).add_(eps).rsqrt_()


def _scale(weight_d: Tensor, plus_one: bool) -> Tensor:
    wide = weight_d.to(torch.promote_types(weight_d.dtype, torch.float32))
    return wide + 1 if plus_one else wide


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up` (GLU variants, Shazeer, arXiv 2002.05202); one of ACTIVATIONS. Saves its inputs."""
    result: Tensor = _GatedActivation.apply(gate, up, activation)
    return result


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, torch.ops.aten.silu_backward),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
    ),
}  # {name: (value, input's gradient from the value's gradient and the input)}


class _GatedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        value, _ = ACTIVATIONS[activation]
        compiled = compiled_ops.gated_activation(_rows(gate), _rows(up), value)
        if compiled is not None:
            return compiled.view(up.shape)
        out = torch.empty_like(up, memory_format=torch.contiguous_format)
        gates, ups, outs = _rows(gate), _rows(up), _rows(out)
        for part in _chunks(gates):
            torch.mul(value(gates[part]), ups[part], out=outs[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        value, derivative = ACTIVATIONS[ctx.activation]
        gates, ups, grads = _rows(gate), _rows(up), _rows(grad)
        compiled = compiled_ops.gated_activation_backward(gates, ups, grads, value, derivative)
        if compiled is not None:
            return compiled[0].view(gate.shape), compiled[1].view(up.shape), None
        grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
        grad_up = torch.empty_like(up, memory_format=torch.contiguous_format)
        grad_gates, grad_ups = _rows(grad_gate), _rows(grad_up)
        for part in _chunks(gates):
            torch.mul(grads[part], value(gates[part]), out=grad_ups[part])
            grad_gates[part] = derivative(grads[part] * ups[part], gates[part])
        return grad_gate, grad_up, None


def apply_rotary(x_bthd: Tensor, cos_btd: Tensor, sin_btd: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) of every head, whose two halves are the pairs.

    Saved for backward: cosines and sines.
    """
    result: Tensor = _ApplyRotary.apply(x_bthd, cos_btd, sin_btd)
    return result


class _ApplyRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, sin, transposed=True), None, None


def _rotate(x_bthd: Tensor, cos_btd: Tensor, sin_btd: Tensor, transposed: bool = False) -> Tensor:
    """The rotation, or its transpose, which is its gradient."""
    x_nhd = x_bthd.flatten(0, 1)
    rows_nw = x_nhd.flatten(1)
    cos_nd, sin_nd = (angle.expand(*x_bthd.shape[:2], -1).flatten(0, 1) for angle in (cos_btd, sin_btd))
    operation = compiled_ops.apply_rotary_backward if transposed else compiled_ops.apply_rotary
    compiled = operation(rows_nw, cos_nd, sin_nd)
    if compiled is not None:
        return compiled.view(x_bthd.shape)
    out = torch.empty_like(x_bthd, memory_format=torch.contiguous_format)
    out_nhd, half, sign = out.view(x_nhd.shape), x_bthd.shape[-1] // 2, 1 if transposed else -1
    compute = torch.promote_types(x_bthd.dtype, cos_btd.dtype)
    for part in _chunks(rows_nw):
        x, cos, sin = x_nhd[part].to(compute), cos_nd[part, None], sin_nd[part, None]
        sin_first, sin_second = (sin[..., half:], sin[..., :half]) if transposed else (sin[..., :half], sin[..., half:])
        rotated = torch.mul(x, cos, out=out_nhd[part] if compute == out.dtype else None)
        # Products and sums are rounded separately: the same bits as transformers, whatever the shape.
        rotated[..., :half].add_(x[..., half:] * sin_first, alpha=sign)
        rotated[..., half:].add_(x[..., :half] * sin_second, alpha=-sign)
        if compute != out.dtype:
            out_nhd[part] = rotated
    return out


def _rows(x: Tensor) -> Tensor:
    """All dimensions but the last as one."""
    return x.reshape(-1, x.shape[-1])


def _chunks(rows_nd: Tensor) -> Iterator[slice]:
    """Slices of rows whose float32 copy has at most CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES // (4 * rows_nd.shape[1]))
    for begin in range(0, rows_nd.shape[0], size):
        yield slice(begin, begin + size)
