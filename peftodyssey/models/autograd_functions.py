"""Autograd functions that keep only what their backward pass cannot compute again. `models.lean` puts them into a
model.

A frozen weight in 4 bits is dequantised in the forward and once more in the backward pass and never kept; adapters and
trained weights stay in their own (wide) type and are cast for each product; norms and gated products work through the
rows in chunks, so that their float32 temporaries stay small. Shapes: n tokens, i inputs, o outputs, r rank, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftodyssey.constants import CHUNK_BYTES
from peftodyssey.models import compiled_ops


def lora_linear(
    x: Tensor,
    x_low: Tensor,
    down_ri: Tensor,
    up_or: Tensor,
    weight_oi: Callable[[], Tensor],
    bias_o: Tensor | None,
    scaling: float,
) -> Tensor:
    """`x @ W.T + bias + scaling * (x_low @ down.T) @ up.T` for a frozen W that `weight_oi()` makes when it is needed.

    `x_low` is `x` or `x` after dropout. Products are formed in the type of W; gradients of `down_ri` and `up_or` are in
    theirs. Kept for backward: `x_low` and its product with `down_ri`.
    """
    result: Tensor = _LoRALinear.apply(x, x_low, down_ri, up_or, weight_oi, bias_o, scaling, x_low is x)
    return result


class _LoRALinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_low: Tensor,
        down_ri: Tensor,
        up_or: Tensor,
        weight_oi: Callable[[], Tensor],
        bias_o: Tensor | None,
        scaling: float,
        shared: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = weight_oi()
            compute = weight.dtype
            x_ni = _rows(x).to(compute)
            out_no = F.linear(x_ni, weight, None if bias_o is None else bias_o.to(compute))
            del weight
            low_in_ni = x_ni if shared else _rows(x_low).to(compute)
            low_nr = low_in_ni @ down_ri.to(compute).T
            out_no.addmm_(low_nr, up_or.to(compute).T, alpha=scaling)
        ctx.save_for_backward(low_in_ni, low_nr, down_ri, up_or)
        ctx.more = weight_oi, scaling, shared, x.shape, x.dtype, x_low.dtype
        return out_no.view(*x.shape[:-1], out_no.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        low_in_ni, low_nr, down_ri, up_or = ctx.saved_tensors
        weight_oi, scaling, shared, shape, x_dtype, low_dtype = ctx.more
        needs_x, needs_low, needs_down, needs_up = ctx.needs_input_grad[:4]
        grad_no = _rows(grad).to(low_in_ni.dtype)
        grad_x = grad_no @ weight_oi() if needs_x else None
        grad_up = (grad_no.T @ low_nr).to(up_or.dtype).mul_(scaling) if needs_up else None
        grad_low_nr = (grad_no @ up_or.to(grad_no.dtype)).mul_(scaling)
        grad_down = (grad_low_nr.T @ low_in_ni).to(down_ri.dtype) if needs_down else None
        grad_x_low = None
        if shared:
            if grad_x is not None:
                grad_x.addmm_(grad_low_nr, down_ri.to(grad_no.dtype))
        elif needs_low:
            grad_x_low = (grad_low_nr @ down_ri.to(grad_no.dtype)).to(low_dtype).view(shape)
        grad_x = None if grad_x is None else grad_x.to(x_dtype).view(shape)
        return grad_x, grad_x_low, grad_down, grad_up, None, None, None, None


def linear(x: Tensor, weight_oi: Tensor, bias_o: Tensor | None, compute: torch.dtype) -> Tensor:
    """`x @ weight.T + bias` in the type `compute`, for a trained weight of another type; no cast of it is kept."""
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
        grad_weight = (grad_no.T @ x_ni).to(weight_oi.dtype) if needs_weight else None
        grad_bias = grad_no.sum(0, dtype=bias_o.dtype) if bias_o is not None and needs_bias else None
        return grad_x, grad_weight, grad_bias, None


def rms_norm(x: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (1 + weight with `plus_one`), rounded once to
    `out_dtype`.

    Root mean square norm, Zhang and Sennrich, arXiv 1910.07467. Kept for backward: `x` alone.
    """
    result: Tensor = _RMSNorm.apply(x, weight_d, eps, plus_one, out_dtype)
    return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight_d)
        ctx.more = eps, plus_one
        if (whole := compiled_ops.rms_norm(_rows(x), weight_d, eps, plus_one, out_dtype)) is not None:
            return whole.view(x.shape)
        out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
        scale_d = _scale(weight_d, plus_one)
        rows, out_rows = _rows(x), out.view(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            for part in _chunks(rows):
                wide, root = _normed(rows[part], eps)
                torch.mul(wide.mul_(root), scale_d, out=wide)
                out_rows[part] = wide
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_d = ctx.saved_tensors
        eps, plus_one = ctx.more
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        if (
            needs_x
            and not needs_weight
            and (whole := compiled_ops.rms_norm_backward(_rows(x), _rows(grad), weight_d, eps, plus_one)) is not None
        ):
            return whole.view(x.shape), None, None, None, None
        scale_d = _scale(weight_d, plus_one)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else None
        grad_weight_d = torch.zeros_like(scale_d) if needs_weight else None
        x_rows, grad_rows = _rows(x), _rows(grad)
        for part in _chunks(x_rows):
            unit, root = _normed(x_rows[part], eps)
            unit.mul_(root)
            by_unit = grad_rows[part].to(unit.dtype)
            if grad_weight_d is not None:
                grad_weight_d += (by_unit * unit).sum(0)
            if grad_x is None:
                continue
            by_unit = by_unit * scale_d
            along = (by_unit * unit).mean(1, keepdim=True)
            grad_x.view(-1, x.shape[-1])[part] = by_unit.sub_(unit.mul_(along)).mul_(root)
        return grad_x, None if grad_weight_d is None else grad_weight_d.to(weight_d.dtype), None, None, None


def _normed(rows_nd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A wide copy of some rows and, for each, one over its root mean square."""
    wide = rows_nd.to(torch.promote_types(rows_nd.dtype, torch.float32), copy=True)
    return wide, wide.square().mean(1, keepdim=True).add_(eps).rsqrt_()


def _scale(weight_d: Tensor, plus_one: bool) -> Tensor:
    wide = weight_d.to(torch.promote_types(weight_d.dtype, torch.float32))
    return wide + 1 if plus_one else wide


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up` (GLU variants, Shazeer, arXiv 2002.05202); activation: one of ACTIVATIONS. Keeps its
    inputs.
    """
    result: Tensor = _GatedActivation.apply(gate, up, activation)
    return result


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, torch.ops.aten.silu_backward),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
    ),
}  # name: value, and gradient from (gradient of the value, input)


class _GatedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        value, _ = ACTIVATIONS[activation]
        if (whole := compiled_ops.gated_activation(_rows(gate), _rows(up), value)) is not None:
            return whole.view(up.shape)
        out = torch.empty_like(up, memory_format=torch.contiguous_format)
        gates, ups, outs = _rows(gate), _rows(up), _rows(out)
        for part in _chunks(gates):
            torch.mul(value(gates[part]), ups[part], out=outs[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        value, slope = ACTIVATIONS[ctx.activation]
        if (
            both := compiled_ops.gated_activation_backward(_rows(gate), _rows(up), _rows(grad), value, slope)
        ) is not None:
            return both[0].view(gate.shape), both[1].view(up.shape), None
        grad_gate = torch.empty_like(gate, memory_format=torch.contiguous_format)
        grad_up = torch.empty_like(up, memory_format=torch.contiguous_format)
        gates, ups, grads, by_gate, by_up = (_rows(t) for t in (gate, up, grad, grad_gate, grad_up))
        for part in _chunks(gates):
            torch.mul(grads[part], value(gates[part]), out=by_up[part])
            by_gate[part] = slope(grads[part] * ups[part], gates[part])
        return grad_gate, grad_up, None


def apply_rotary(x_bthd: Tensor, cos_btd: Tensor, sin_btd: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864) of every head, halves of it as pairs. Kept: cosines and
    sines alone.
    """
    result: Tensor = _ApplyRotary.apply(x_bthd, cos_btd, sin_btd)
    return result


class _ApplyRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _turned(grad, *ctx.saved_tensors, True), None, None


def _turned(x_bthd: Tensor, cos_btd: Tensor, sin_btd: Tensor, back: bool) -> Tensor:
    """The rotation, or with `back` its transpose, which is its gradient."""
    x_nhd = x_bthd.flatten(0, 1)
    rows_nw = x_nhd.flatten(1)
    cos_nd, sin_nd = (angle.expand(*x_bthd.shape[:2], -1).flatten(0, 1) for angle in (cos_btd, sin_btd))
    if (
        whole := (compiled_ops.apply_rotary_backward if back else compiled_ops.apply_rotary)(rows_nw, cos_nd, sin_nd)
    ) is not None:
        return whole.view(x_bthd.shape)
    out = torch.empty_like(x_bthd, memory_format=torch.contiguous_format)
    out_nhd, half, sign = out.view(x_nhd.shape), x_bthd.shape[-1] // 2, 1 if back else -1
    compute = torch.promote_types(x_bthd.dtype, cos_btd.dtype)
    for part in _chunks(rows_nw):
        x, cos, sin = x_nhd[part].to(compute), cos_nd[part, None], sin_nd[part, None]
        down, up = (sin[..., half:], sin[..., :half]) if back else (sin[..., :half], sin[..., half:])
        turned = torch.mul(x, cos, out=out_nhd[part] if compute == out.dtype else None)
        turned[..., :half].add_(
            x[..., half:] * down, alpha=sign
        )  # products and sums apart, each rounded: transformers' bits,
        turned[..., half:].add_(x[..., :half] * up, alpha=-sign)  # whatever the shape
        if compute != out.dtype:
            out_nhd[part] = turned
    return out


def _rows(x: Tensor) -> Tensor:
    """All dimensions but the last as one."""
    return x.reshape(-1, x.shape[-1])


def _chunks(rows_nd: Tensor) -> Iterator[slice]:
    """Slices of rows whose float32 copy has at most CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES // (4 * rows_nd.shape[1]))
    for begin in range(0, rows_nd.shape[0], size):
        yield slice(begin, begin + size)
