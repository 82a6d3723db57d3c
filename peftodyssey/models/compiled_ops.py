"""Row-wise arithmetic that a card does in one kernel each: compiled by torch where rows are wide, None elsewhere.

`models.kernels` asks here first and works in chunks where the answer is None: on a CPU, on narrow models, where
compiling failed. Compiled, nothing wide is written to memory.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MIN_WIDTH = 1024  # widths below which a kernel's launch costs more than its chunks
_broken: set[str] = set()


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors (rows, width), the first of which says whether it is worth it; None where it is not."""

    @functools.cache
    def made() -> Callable[..., Any]:
        return torch.compile(function)

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        if not should_compile(inputs[0]) or function.__name__ in _broken:
            return None
        try:
            return made()(*inputs)
        except Exception as error:  # no compiler, or one that does not know this card: the chunks give the same
            _broken.add(function.__name__)
            warnings.warn(f"torch.compile cannot make {function.__name__}: {str(error).splitlines()[0]}", stacklevel=2)
            return None

    return call


def should_compile(rows_nd: Tensor) -> bool:
    """Whether a compiled kernel pays for such rows: real ones, on a card, and wide."""
    return rows_nd.is_cuda and type(rows_nd) in (Tensor, torch.nn.Parameter) and rows_nd.shape[-1] >= MIN_WIDTH


@_compiled
def rms_norm(x_nd: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
    """The norm of `kernels.rms_norm`, rounded once."""
    wide = x_nd.float()
    scale_d = weight_d.float() + 1 if plus_one else weight_d.float()
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps) * scale_d).to(out_dtype)


@_compiled
def rms_norm_backward(x_nd: Tensor, grad_nd: Tensor, weight_d: Tensor, eps: float, plus_one: bool) -> Tensor:
    """Its gradient by x."""
    wide = x_nd.float()
    root = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    unit, by_unit = wide * root, grad_nd.float() * (weight_d.float() + 1 if plus_one else weight_d.float())
    return ((by_unit - unit * (by_unit * unit).mean(1, keepdim=True)) * root).to(x_nd.dtype)


@_compiled
def apply_rotary(x_nw: Tensor, cos_nd: Tensor, sin_nd: Tensor) -> Tensor:
    """The rotation of `kernels.rotated`, of all heads of a row, rounded once."""
    wide = x_nw.float().unflatten(1, (-1, cos_nd.shape[1]))
    first, second = wide.chunk(2, -1)
    turned = torch.cat([-second, first], -1) * sin_nd.float()[:, None]
    return (wide * cos_nd.float()[:, None] + turned).flatten(1).to(x_nw.dtype)


@_compiled
def apply_rotary_backward(grad_nw: Tensor, cos_nd: Tensor, sin_nd: Tensor) -> Tensor:
    """Its gradient by x: the transpose."""
    wide = grad_nw.float().unflatten(1, (-1, cos_nd.shape[1]))
    first, second = (wide * sin_nd.float()[:, None]).chunk(2, -1)
    return (wide * cos_nd.float()[:, None] + torch.cat([second, -first], -1)).flatten(1).to(grad_nw.dtype)


@_compiled
def gated_activation(gate_nd: Tensor, up_nd: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """`value(gate) * up`."""
    return value(gate_nd.float()).to(up_nd.dtype) * up_nd


@_compiled
def gated_activation_backward(
    gate_nd: Tensor,
    up_nd: Tensor,
    grad_nd: Tensor,
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The gradients of `gated` by gate and up."""
    return slope(grad_nd * up_nd, gate_nd), grad_nd * value(gate_nd.float()).to(up_nd.dtype)
