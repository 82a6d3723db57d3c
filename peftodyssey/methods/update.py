"""What training added to a base's matrices, as tensors by name. Called by `jobs.perturb`, which measures noise along it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from peftodyssey.methods.adapter import REWRITING_STARTS
from peftodyssey.methods.protocol import Attached
from peftodyssey.recipe.cell import MethodPoint

if TYPE_CHECKING:
    import torch

IN_PEFT = "base_model.model."  # where PEFT's wrapper holds the base


def has_update(point: MethodPoint) -> bool:
    """Whether the method's result is its base's matrices plus something: full fine-tuning, LoRA on an unquantised base.

    Not so for DoRA, for starts that take a part of the base into the adapter, and for quantised bases.
    """
    plain = not point.options.get("dora") and not str(point.options.get("init", "")).startswith(REWRITING_STARTS)
    return point.quant is None and (point.method == "full" or (point.method == "lora" and plain))


def update_of(attached: Attached, names: Collection[str]) -> dict[str, torch.Tensor]:
    """The update of the base's parameters `names`, float32 on the CPU; those that the method leaves alone are left out."""
    assert has_update(attached.point), attached.point
    if not attached.adapter:
        now = dict(attached.base.named_parameters())
        return {name: now[name].detach().cpu().float() - attached.start[name].float() for name in names if name in attached.start}
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, module in attached.model.named_modules():
        weight = f"{name.removeprefix(IN_PEFT)}.weight"
        if isinstance(module, LoraLayer) and weight in names:
            found[weight] = module.get_delta_weight("default").detach().cpu().float()
    return found
