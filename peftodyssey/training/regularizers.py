"""Regularizers applied after each optimizer step: L2-SP pulls weights to their start, the norm ball bounds the change.

Both need how far each matrix is from its start. Weights that train themselves are compared with a copy of their start;
LoRA starts with a product of zero, and multiplying its factor B by c multiplies the product by c.
Shapes: r rank, i inputs, o outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 8 << 20  # of a difference that is measured: 32 MiB in float32


@dataclass(frozen=True)
class DenseUpdate:
    """A trained tensor and a copy of its initial value."""

    weight: nn.Parameter
    initial: Tensor
    initial_norm: Tensor  # Frobenius norm

    def norm(self) -> Tensor:
        """Frobenius norm of the update."""
        chunks = zip(
            *(t.detach().reshape(-1).split(CHUNK_ELEMENTS) for t in (self.weight, self.initial)),
            strict=True,
        )
        return torch.stack([torch.linalg.vector_norm(weight - initial) for weight, initial in chunks]).norm()

    def scale_(self, factor: Tensor | float) -> None:
        """Multiplies the update by `factor` (0..1); 1 keeps the weight's bits, 0 restores the initial ones."""
        self.weight.lerp_(self.initial, 1 - factor)


@dataclass(frozen=True)
class LoraUpdate:
    """The product of the LoRA factors of one frozen matrix."""

    lora_A_ri: nn.Parameter
    lora_B_or: nn.Parameter
    scaling: float
    initial_norm: Tensor  # Frobenius norm of the frozen matrix

    def norm(self) -> Tensor:
        """Frobenius norm of the update by r x r products: |B A|^2 = tr(B'B A A')."""
        grams_rr = (self.lora_B_or.T @ self.lora_B_or) * (self.lora_A_ri @ self.lora_A_ri.T)
        return self.scaling * grams_rr.sum().clamp(min=0).sqrt()

    def scale_(self, factor: Tensor | float) -> None:
        """Multiplies the update by `factor` (0..1) through B; A stays."""
        self.lora_B_or.mul_(factor)


Update = DenseUpdate | LoraUpdate


def track_updates(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> list[Update]:
    """One entry for each trained tensor or LoRA product; call it before the first step, because it copies the start."""
    modules: list[Any] = list(model.modules())
    lora_modules = [module for module in modules if hasattr(module, "lora_A") and "default" in module.lora_A]
    if lora_modules:
        return [_lora_update(module) for module in lora_modules]
    return [DenseUpdate(p, p.detach().clone(), _norm(p.detach())) for p in trainable.values()]


def _lora_update(module: Any) -> LoraUpdate:
    from peft.utils.integrations import dequantize_module_weight

    base_weight_oi = dequantize_module_weight(module.get_base_layer()).detach()
    lora_A, lora_B = module.lora_A["default"].weight, module.lora_B["default"].weight
    return LoraUpdate(lora_A, lora_B, float(module.scaling["default"]), _norm(base_weight_oi))


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dtype=torch.promote_types(weight.dtype, torch.float32))


@torch.no_grad()
def apply_l2_sp(updates: Sequence[Update], lr: float, strength: float) -> None:
    """L2-SP (Li et al., arXiv 1802.01483): multiplies every update by max(0, 1 - lr * strength).

    The paper adds strength / 2 * |w - w0|^2 to the loss. Here the pull is decoupled from AdamW's moments, as its weight
    decay is (arXiv 1711.05101): w0 + (1 - lr * strength) * (w - w0).
    """
    factor = max(0.0, 1.0 - lr * strength)
    for update in updates if factor < 1 else ():
        update.scale_(factor)


@torch.no_grad()
def project_to_norm_ball(updates: Sequence[Update], radius: float) -> None:
    """Shortens each update to at most `radius` times the Frobenius norm of its matrix; shorter ones keep their bits.

    Gouk, Hospedales and Pontil (arXiv 2002.08253) project each layer's weights back to a radius around the pretrained
    ones; here the radius is relative to the matrix's own norm, so that one number fits matrices of all sizes. Scaling
    the difference is the Euclidean projection; for LoRA it is that of the product.
    """
    for update in updates:
        norm, limit = update.norm(), radius * update.initial_norm
        update.scale_(torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
