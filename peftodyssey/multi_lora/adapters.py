"""LoRA adapters as plain tensors: copied from PEFT's modules, copied back, and under the names of a checkpoint.

Shapes: r rank, i inputs, o outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peftodyssey.models.patching import PEFT_PREFIX
from peftodyssey.training.optim import MOMENTS

LORA_A = PEFT_PREFIX + "{}.lora_A.default.weight"
LORA_B = PEFT_PREFIX + "{}.lora_B.default.weight"


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter: by target module the factors (r, i) and (o, r), and what their product is scaled by."""

    lora_A: dict[str, Tensor]
    lora_B: dict[str, Tensor]
    scaling: dict[str, float]
    dropout: float = 0.0  # probability with which an input is dropped in training

    @property
    def rank(self) -> int:
        """The largest rank of its targets."""
        return max(lora_A_ri.shape[0] for lora_A_ri in self.lora_A.values())


@dataclass(frozen=True)
class InitialState:
    """The weights with which a member joins, and AdamW's two moments where it resumes from a checkpoint."""

    weights: Adapter
    moments: tuple[Adapter, Adapter] | None


def adapter_of(model: nn.Module) -> Adapter:
    """The LoRA adapter that PEFT has put on a model, copied to the host."""
    lora_A, lora_B, scaling, dropout = {}, {}, {}, 0.0
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            target = name.removeprefix(PEFT_PREFIX)
            lora_A[target] = module.lora_A["default"].weight.detach().to("cpu", copy=True)
            lora_B[target] = module.lora_B["default"].weight.detach().to("cpu", copy=True)
            scaling[target] = float(module.scaling["default"])
            dropout = getattr(module.lora_dropout["default"], "p", 0.0)
    return Adapter(lora_A, lora_B, scaling, dropout)


def on_host(adapter: Adapter) -> Adapter:
    """The adapter in host memory."""
    lora_A, lora_B = (
        {name: factor.cpu() for name, factor in part.items()} for part in (adapter.lora_A, adapter.lora_B)
    )
    return Adapter(lora_A, lora_B, adapter.scaling, adapter.dropout)


def copy_adapter_into(adapter: Adapter, model: nn.Module) -> None:
    """Copies `adapter` into the LoRA modules that PEFT has put on a model."""
    with torch.no_grad():
        for name, factor in named_tensors("", adapter).items():
            model.get_parameter(name).copy_(factor)


def read_state(tensors: Mapping[str, Tensor], like: Adapter) -> InitialState:
    """A member from the tensors of its checkpoint; `like` has its targets, scaling and dropout."""
    exp_avg, exp_avg_sq = (_adapter(tensors, f"adam.{moment}/", like) for moment in MOMENTS)
    return InitialState(_adapter(tensors, "parameter/", like), (exp_avg, exp_avg_sq))


def _adapter(tensors: Mapping[str, Tensor], prefix: str, like: Adapter) -> Adapter:
    lora_A = {target: tensors[prefix + LORA_A.format(target)] for target in like.scaling}
    lora_B = {target: tensors[prefix + LORA_B.format(target)] for target in like.scaling}
    return Adapter(lora_A, lora_B, like.scaling, like.dropout)


def named_tensors(prefix: str, adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's factors by the names that they have as PEFT's parameters, after `prefix`."""
    lora_A = {prefix + LORA_A.format(target): factor for target, factor in adapter.lora_A.items()}
    return lora_A | {prefix + LORA_B.format(target): factor for target, factor in adapter.lora_B.items()}
