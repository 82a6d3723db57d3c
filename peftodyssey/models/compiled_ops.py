"""Elementwise kernels made by `torch.compile` for `autograd_functions`: each is one pass over rows.

They return None where they are not used (on a CPU, on narrow models, where compilation failed), and the caller computes
in chunks.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peftodyssey.models import host_memory

MIN_WIDTH = 1024  # of a row; below it, launching the kernel costs more than it saves
MAX_VARIANTS = 64  # of a kernel in a process: each width and dtype of each model has its own
_broken: set[str] = set()  # names of functions that could not be compiled


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors (rows, width), compiled at its first use; returns None where it is not used."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        from torch._dynamo import config

        # beyond its limit the function runs as it is written, with all its temporaries
        config.recompile_limit = max(config.recompile_limit, MAX_VARIANTS)
        return torch.compile(function)

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        if not should_compile(inputs[0]) or function.__name__ in _broken:
            return None
        try:
            return compiled()(*inputs)
        except Exception as error:  # no compiler, or one that does not support this GPU
            if host_memory.is_out_of_memory(error):
                raise  # the step is tried again with less memory; the kernel is not at fault
            _broken.add(function.__name__)
            warnings.warn(f"torch.compile failed for {function.__name__}: {str(error).splitlines()[0]}", stacklevel=2)
            return None

    return call


def should_compile(rows_nd: Tensor) -> bool:
    """Whether a compiled kernel pays for these rows: plain tensors on a GPU, and wide."""
    return rows_nd.is_cuda and type(rows_nd) in (Tensor, torch.nn.Parameter) and rows_nd.shape[-1] >= MIN_WIDTH


@_compiled
def rms_norm(x_nd: Tensor, weight_d: Tensor, eps: float, plus_one: bool, out_dtype: torch.dtype) -> Tensor:
    """`autograd_functions.rms_norm`, rounded once."""
    wide = x_nd.float()
    scale_d = weight_d.float() + 1 if plus_one else weight_d.float()
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps) * scale_d).to(out_dtype)


@_compiled
def rms_norm_backward(x_nd: Tensor, grad_nd: Tensor, weight_d: Tensor, eps: float, plus_one: bool) -> Tensor:
    """The gradient of `rms_norm` with respect to x."""
    wide = x_nd.float()
    inverse_rms = torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    scale_d = weight_d.float() + 1 if plus_one else weight_d.float()
    normed, grad_normed = wide * inverse_rms, grad_nd.float() * scale_d
    return ((grad_normed - normed * (grad_normed * normed).mean(1, keepdim=True)) * inverse_rms).to(x_nd.dtype)


@_compiled
def apply_rotary(x_nw: Tensor, cos_nd: Tensor, sin_nd: Tensor) -> Tensor:
    """`autograd_functions.apply_rotary` of all heads of a row, rounded once."""
    wide = x_nw.float().unflatten(1, (-1, cos_nd.shape[1]))
    first, second = wide.chunk(2, -1)
    rotated = torch.cat([-second, first], -1) * sin_nd.float()[:, None]
    return (wide * cos_nd.float()[:, None] + rotated).flatten(1).to(x_nw.dtype)


@_compiled
def apply_rotary_backward(grad_nw: Tensor, cos_nd: Tensor, sin_nd: Tensor) -> Tensor:
    """The gradient of `apply_rotary` with respect to x: the transposed rotation."""
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
    derivative: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The gradients of `gated_activation` with respect to gate and up."""
    return derivative(grad_nd * up_nd, gate_nd), grad_nd * value(gate_nd.float()).to(up_nd.dtype)
