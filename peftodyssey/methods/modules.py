"""The modules of a loaded model that a method is attached to; `targets` does the same by name, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.targets import Targets, select_names, target_problems

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def linear_modules(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear maps of the decoder layers by full name, in module order: Linear, Conv1D, bitsandbytes'; no head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = decoder_layers(model)[0] + "."
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name.startswith(layers)
    }


def decoder_layers(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """(name, list) of the decoder layers: the first ModuleList with as many entries as the config has hidden layers."""
    from torch import nn

    num_layers = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return name, module
    raise MethodError(
        f"{type(model).__name__} has no list of {num_layers} decoder layers", "use `full` or another model"
    )


def target_module_names(model: PreTrainedModel, targets: Targets) -> tuple[list[str], list[str]]:
    """Full names of the modules that `targets` means, and of all others. Raises MethodError for an unmatched target."""
    linears = list(linear_modules(model))
    if problems := target_problems(linears, targets):
        raise MethodError(problems[0], "name only modules that exist in `targets`")
    selected = select_names(linears, targets)
    taken = set(selected)
    return selected, [name for name, _ in model.named_modules() if name not in taken]


def fan_in_fan_out(model: PreTrainedModel, names: Sequence[str]) -> bool:
    """Whether the modules store (in_features, out_features): transformers' Conv1D; a quantised one is a Linear."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)
