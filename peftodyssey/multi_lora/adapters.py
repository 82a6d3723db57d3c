"""LoRA adapters as plain tensors: taken from PEFT's modules, put back into them, and under the names of a saved
training.

For `train.banks`, which stacks them, and `jobs.fleet`. Shapes: r rank, i inputs, o outputs.
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
    """One member's LoRA: by target the factors (r, i) and (o, r) in their own rank, and what their product is scaled
    by.
    """

    down_ri: dict[str, Tensor]
    up_or: dict[str, Tensor]
    scaling: dict[str, float]
    dropout: float = 0.0  # share of its inputs that is dropped while it trains

    @property
    def rank(self) -> int:
        """The largest rank of its targets."""
        return max(down.shape[0] for down in self.down_ri.values())


@dataclass(frozen=True)
class InitialState:
    """The weights with which a member comes aboard, and AdamW's two moments of them where it comes from a saved state."""

    weights: Adapter
    moments: tuple[Adapter, Adapter] | None


def adapter_of(model: nn.Module) -> Adapter:
    """The LoRA adapter that PEFT has put on a model, copied to the host."""
    down, up, scaling, dropout = {}, {}, {}, 0.0
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            target = name.removeprefix(PEFT_PREFIX)
            down[target] = module.lora_A["default"].weight.detach().to("cpu", copy=True)
            up[target] = module.lora_B["default"].weight.detach().to("cpu", copy=True)
            scaling[target] = float(module.scaling["default"])
            dropout = getattr(module.lora_dropout["default"], "p", 0.0)
    return Adapter(down, up, scaling, dropout)


def copy_adapter_into(adapter: Adapter, model: nn.Module) -> None:
    """Copies `adapter` into the LoRA modules that PEFT has put on a model."""
    with torch.no_grad():
        for target, of in adapter.down_ri.items():
            model.get_parameter(LORA_A.format(target)).copy_(of)
            model.get_parameter(LORA_B.format(target)).copy_(adapter.up_or[target])


def start_of(tensors: Mapping[str, Tensor], like: Adapter) -> InitialState:
    """A member as a training of its own saved it; `like` has its targets."""
    first, second = (_adapter(tensors, f"adam.{kind}", like) for kind in MOMENTS)
    return InitialState(_adapter(tensors, "parameter", like), (first, second))


def _adapter(tensors: Mapping[str, Tensor], kind: str, like: Adapter) -> Adapter:
    down = {target: tensors[f"{kind}/{LORA_A.format(target)}"] for target in like.scaling}
    up = {target: tensors[f"{kind}/{LORA_B.format(target)}"] for target in like.scaling}
    return Adapter(down, up, like.scaling, like.dropout)


def named(kind: str, adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's factors by the names under which a training saves its parameters, or moments, of this kind."""
    down = {f"{kind}/{LORA_A.format(target)}": of for target, of in adapter.down_ri.items()}
    return down | {f"{kind}/{LORA_B.format(target)}": of for target, of in adapter.up_or.items()}
