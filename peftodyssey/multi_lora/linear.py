"""Stacked LoRA adapters on a model: target modules multiply by the base's weight once and by every member's factors.

Shapes: k members, b sequences of each, t tokens of a sequence, n = b * t, i inputs, o outputs, r padded rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftodyssey.models.autograd_functions import product
from peftodyssey.models.patching import patch_model_on_cuda
from peftodyssey.models.quantised import dequantized_weight_fn
from peftodyssey.multi_lora.adapters import Adapter, InitialState
from peftodyssey.multi_lora.state import LoraBanks, stack_adapters
from peftodyssey.training.dropout import SeededDropout


@dataclass(frozen=True)
class BaseLinear:
    """The frozen linear map of a target module."""

    target: str  # its name in the base
    weight_oi: Callable[[], Tensor]  # dequantized where need be
    bias_o: Tensor | None


@contextlib.contextmanager
def patch_linears(model: nn.Module, banks: Callable[[], LoraBanks | None], dropout: SeededDropout) -> Iterator[None]:
    """In the body the target modules add every member's product; where `banks()` is None they are the base's own."""
    grad_anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)
    first = banks()
    assert first is not None
    modules = {target: model.get_submodule(target) for target in first.targets}
    for target, module in modules.items():
        module.forward = _forward(target, module, banks, grad_anchor, dropout)
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward  # the class's own shows again


@contextlib.contextmanager
def attach_adapters_for_eval(
    model: nn.Module, adapters: Sequence[Adapter], device: torch.device, compute: torch.dtype | None
) -> Iterator[list[int]]:
    """`model` with several trained adapters, for batches whose rows are split evenly among them.

    Gives the adapters' numbers in the order of their rows. `compute`: type of the products, None for the adapters' own.
    """
    starts = {number: InitialState(replace(adapter, dropout=0.0), None) for number, adapter in enumerate(adapters)}
    banks = stack_adapters(starts, device)
    for bucket in banks.buckets:  # only training needs gradients and moments
        bucket.grads = bucket.params.new_empty(0)
        bucket.moments = (bucket.grads, bucket.grads)
    banks.update_compute_copies(compute)
    with (
        patch_model_on_cuda(model, compute, device),  # first, because it tests the base's own modules
        patch_linears(model, lambda: banks, SeededDropout()),
    ):
        yield banks.order


def _forward(
    target: str, module: Any, banks: Callable[[], LoraBanks | None], grad_anchor: Tensor, dropout: SeededDropout
) -> Callable[[Tensor], Tensor]:
    weight_oi = dequantized_weight_fn(module)
    assert weight_oi is not None, target
    linear = BaseLinear(target, weight_oi, module.bias)

    def forward(x: Tensor) -> Tensor:
        current = banks()
        if current is None:
            base: Tensor = type(module).forward(module, x)
            return base
        return multi_lora_linear(x, _dropped(x, current, target, dropout), grad_anchor, current, linear)

    return forward


def _dropped(x: Tensor, banks: LoraBanks, target: str, dropout: SeededDropout) -> Tensor | None:
    """`x` after each member's own dropout; None where no member has any."""
    probabilities = [probability for bucket in banks.buckets for probability in bucket.dropout]
    if not any(probabilities):
        return None
    by_member = x.split(x.shape[0] // len(probabilities))
    rows = by_member[0].shape[0]
    return torch.cat(
        [
            dropout.drop(x_bti, target, probability, member * rows) if probability else x_bti
            for member, (x_bti, probability) in enumerate(zip(by_member, probabilities, strict=True))
        ]
    )


def multi_lora_linear(
    x: Tensor, lora_x: Tensor | None, grad_anchor: Tensor, banks: LoraBanks, linear: BaseLinear
) -> Tensor:
    """`x @ W.T + bias`, plus on each member's rows `scaling * (lora_x @ A.T) @ B.T`; (k * b, t, i) to (k * b, t, o).

    `lora_x` is `x` after dropout, None without dropout. The backward pass adds the factors' gradients to the buckets'
    `grads`; `grad_anchor`, a scalar that requires a gradient, makes autograd call it. It keeps `lora_x` and its
    products with A.
    """
    result: Tensor = _MultiLoraLinear.apply(x, lora_x, grad_anchor, banks, linear)
    return result


class _MultiLoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lora_x: Tensor | None, grad_anchor: Tensor, banks: LoraBanks, linear: BaseLinear
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = linear.weight_oi()
            compute, inputs = weight.dtype, x.shape[-1]
            x_ni = x.reshape(-1, inputs).to(compute)
            out_no = F.linear(x_ni, weight, None if linear.bias_o is None else linear.bias_o.to(compute))
            del weight
            lora_x_kni = (x_ni if lora_x is None else lora_x.to(compute)).reshape(len(banks.order), -1, inputs)
            out_kno = out_no.view(*lora_x_kni.shape[:2], -1)
            products = []
            for bucket, rows in banks.rows():
                lora_A_kri = bucket.lora_A(linear.target, bucket.compute_params)
                lora_B_kor = bucket.lora_B(linear.target, bucket.compute_params)
                product_knr = torch.bmm(lora_x_kni[rows], lora_A_kri.transpose(1, 2))
                product_knr *= bucket.scaling[linear.target].to(compute)
                out_kno[rows].baddbmm_(product_knr, lora_B_kor.transpose(1, 2))
                products.append(product_knr)
        ctx.save_for_backward(lora_x_kni, *products)
        ctx.rest = banks, linear, lora_x is None, x.shape, x.dtype
        return out_no.view(*x.shape[:-1], out_no.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lora_x_kni, *products = ctx.saved_tensors
        banks, linear, shared, shape, dtype = ctx.rest
        grad_kno = grad.reshape(*lora_x_kni.shape[:2], -1).to(lora_x_kni.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_kno.view(-1, grad_kno.shape[-1]) @ linear.weight_oi()).view(lora_x_kni.shape)
        grad_lora_x = grad_x if shared else torch.zeros_like(lora_x_kni) if ctx.needs_input_grad[1] else None
        for (bucket, rows), product_knr in zip(banks.rows(), products, strict=True):
            lora_B_kor = bucket.lora_B(linear.target, bucket.compute_params)
            grads = bucket.grads.dtype
            bucket.lora_B(linear.target, bucket.grads).add_(product(grad_kno[rows].transpose(1, 2), product_knr, grads))
            grad_product_knr = torch.bmm(grad_kno[rows], lora_B_kor)
            grad_product_knr *= bucket.scaling[linear.target].to(grad_product_knr.dtype)
            grad_lora_A = product(grad_product_knr.transpose(1, 2), lora_x_kni[rows], grads)
            bucket.lora_A(linear.target, bucket.grads).add_(grad_lora_A)
            if grad_lora_x is not None:
                grad_lora_x[rows].baddbmm_(grad_product_knr, bucket.lora_A(linear.target, bucket.compute_params))
        grad_x_out = None if grad_x is None else grad_x.view(shape).to(dtype)
        grad_lora_out = None if shared or grad_lora_x is None else grad_lora_x.view(shape).to(dtype)
        return grad_x_out, grad_lora_out, None, None, None
