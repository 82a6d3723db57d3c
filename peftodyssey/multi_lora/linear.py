"""A fleet's banks on a model: the adapted modules multiply by the base's weight once and by every member's factors.

Called by `train.multi_lora`. Shapes: k members, b blocks of each, t tokens of a block, n = b * t, i inputs, o outputs,
r padded rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftodyssey.models.patching import dequantized_weight_fn
from peftodyssey.multi_lora.state import LoraBanks, RankBucket
from peftodyssey.training.dropout import SeededDropout


@contextlib.contextmanager
def patch_linears(model: nn.Module, banks: Callable[[], LoraBanks | None], draws: SeededDropout) -> Iterator[None]:
    """The adapted modules add every member's product while `banks()` gives the banks; the base alone where it gives
    None.

    Dropout takes its masks from `draws`.
    """
    grad_anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)
    first = banks()
    assert first is not None
    modules = {target: model.get_submodule(target) for target in first.targets}
    for target, module in modules.items():
        module.forward = _forward(target, module, banks, grad_anchor, draws)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward  # the class's own shows again


def _forward(
    target: str, module: Any, banks: Callable[[], LoraBanks | None], grad_anchor: Tensor, draws: SeededDropout
) -> Callable[[Tensor], Tensor]:
    weight_oi = dequantized_weight_fn(module)
    assert weight_oi is not None, target

    def forward(x: Tensor) -> Tensor:
        now = banks()
        if now is None:
            plain: Tensor = type(module).forward(module, x)
            return plain
        return multi_lora_linear(x, _dropped(x, now, target, draws), grad_anchor, now, target, weight_oi, module.bias)

    return forward


def _dropped(x: Tensor, banks: LoraBanks, target: str, draws: SeededDropout) -> Tensor:
    """`x` after each member's own dropout; `x` itself where no member has any."""
    shares = [share for berth in banks.berths for share in berth.dropout]
    if not any(shares):
        return x
    own = x.split(x.shape[0] // len(shares))
    blocks = own[0].shape[0]
    return torch.cat(
        [
            draws.dropped(of, target, share, row * blocks) if share else of
            for row, (of, share) in enumerate(zip(own, shares, strict=True))
        ]
    )


def multi_lora_linear(
    x: Tensor,
    x_low: Tensor,
    grad_anchor: Tensor,
    banks: LoraBanks,
    target: str,
    weight_oi: Callable[[], Tensor],
    bias_o: Tensor | None,
) -> Tensor:
    """`x @ W.T + bias`, and for each member, on its rows, `scaling * (x_low @ down.T) @ up.T`; (k * b, t, i) to (k * b,
    t, o).

    `x_low` is `x` or `x` after dropout. The factors' gradients are added to the berths' `grads` in the backward pass,
    which `ticket`, a scalar that needs a gradient, calls for; kept for it are `x_low` and its products with the first
    factors.
    """
    result: Tensor = _MultiLoraLinear.apply(x, x_low, grad_anchor, banks, target, weight_oi, bias_o, x_low is x)
    return result


class _MultiLoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_low: Tensor,
        grad_anchor: Tensor,
        banks: LoraBanks,
        target: str,
        weight_oi: Callable[[], Tensor],
        bias_o: Tensor | None,
        shared: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = weight_oi()
            compute, inputs = weight.dtype, x.shape[-1]
            x_ni = x.reshape(-1, inputs).to(compute)
            out_no = F.linear(x_ni, weight, None if bias_o is None else bias_o.to(compute))
            del weight
            low_in_kni = (x_ni if shared else x_low.to(compute)).reshape(len(banks.order), -1, inputs)
            out_kno = out_no.view(*low_in_kni.shape[:2], -1)
            lows = []
            for berth, rows in _rows(banks):
                low_knr = torch.bmm(low_in_kni[rows], berth.down(target, berth.compute_params).transpose(1, 2))
                low_knr *= berth.scaling[target].to(compute)
                out_kno[rows].baddbmm_(low_knr, berth.up(target, berth.compute_params).transpose(1, 2))
                lows.append(low_knr)
        ctx.save_for_backward(low_in_kni, *lows)
        ctx.more = banks, target, weight_oi, shared, x.shape, x.dtype
        return out_no.view(*x.shape[:-1], out_no.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        low_in_kni, *lows = ctx.saved_tensors
        banks, target, weight_oi, shared, shape, dtype = ctx.more
        grad_kno = grad.reshape(*low_in_kni.shape[:2], -1).to(low_in_kni.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_kno.view(-1, grad_kno.shape[-1]) @ weight_oi()).view(low_in_kni.shape)
        grad_low_in = grad_x if shared else torch.zeros_like(low_in_kni) if ctx.needs_input_grad[1] else None
        for (berth, rows), low_knr in zip(_rows(banks), lows, strict=True):
            above_kno = grad_kno[rows]
            berth.up(target, berth.grads).add_(torch.bmm(above_kno.transpose(1, 2), low_knr))
            grad_low_knr = torch.bmm(above_kno, berth.up(target, berth.compute_params))
            grad_low_knr *= berth.scaling[target].to(grad_low_knr.dtype)
            berth.down(target, berth.grads).add_(torch.bmm(grad_low_knr.transpose(1, 2), low_in_kni[rows]))
            if grad_low_in is not None:
                grad_low_in[rows].baddbmm_(grad_low_knr, berth.down(target, berth.compute_params))
        by_x = None if grad_x is None else grad_x.view(shape).to(dtype)
        by_low = None if shared or grad_low_in is None else grad_low_in.view(shape).to(dtype)
        return by_x, by_low, None, None, None, None, None, None


def _rows(banks: LoraBanks) -> Iterator[tuple[RankBucket, slice]]:
    """Each berth with the rows of its members."""
    begin = 0
    for berth in banks.berths:
        yield berth, slice(begin, begin + len(berth.members))
        begin += len(berth.members)
