"""The change that a training has made to each matrix so far, as something that can be measured and shortened.

For `train.l2_sp` and `train.norm_ball`. Weights that are trained themselves have travelled from a copy of their start,
LoRA's product from 0: times c, its factor B is the product times c. Shapes: r rank, i inputs, o outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PIECE_NUMBERS = 8 << 20  # of a difference that is measured: 32 MiB in float32


@dataclass(frozen=True)
class DenseUpdate:
    """A trained tensor and a copy of what it was."""

    now: nn.Parameter
    start: Tensor
    start_norm: Tensor  # Frobenius norm

    def norm(self) -> Tensor:
        """Frobenius norm of the change."""
        pieces = zip(
            *(whole.detach().reshape(-1).split(PIECE_NUMBERS) for whole in (self.now, self.start)), strict=True
        )
        return torch.stack([torch.linalg.vector_norm(now - start) for now, start in pieces]).norm()

    def scale_(self, share: Tensor | float) -> None:
        """Leaves `share` (0..1) of the change; 1 leaves the bits as they are, 0 gives those of the start."""
        self.now.lerp_(self.start, 1 - share)


@dataclass(frozen=True)
class LoraUpdate:
    """The product of LoRA's factors beside a frozen matrix."""

    down_ri: nn.Parameter
    up_or: nn.Parameter
    scaling: float
    start_norm: Tensor  # Frobenius norm of the frozen matrix

    def norm(self) -> Tensor:
        """Frobenius norm of the change: of products with r columns and rows alone, |B A|^2 = tr(B'B A A')."""
        grams = (self.up_or.T @ self.up_or) * (self.down_ri @ self.down_ri.T)
        return self.scaling * grams.sum().clamp(min=0).sqrt()

    def shorten(self, share: Tensor | float) -> None:
        """Leaves `share` (0..1) of the change; A, of which the start's change says nothing, stays."""
        self.up_or.mul_(share)


def track_updates(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> list[DenseUpdate | LoraUpdate]:
    """One entry for each trained tensor or LoRA product; called before the first step, because it copies the start."""
    adapted = [module for module in model.modules() if hasattr(module, "lora_A") and "default" in module.lora_A]
    if adapted:
        return [_product(module) for module in adapted]
    return [DenseUpdate(p, p.detach().clone(), _norm(p.detach())) for p in trainable.values()]


def _product(module: Any) -> LoraUpdate:
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(module.get_base_layer())
    return LoraUpdate(
        module.lora_A["default"].weight,
        module.lora_B["default"].weight,
        float(module.scaling["default"]),
        _norm(weight.detach()),
    )


def _norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
