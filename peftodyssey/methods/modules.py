"""Which modules of a loaded model a method sits on. Called when a method is attached; `targets` says the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.targets import ALL_LINEAR, as_tuple, matches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def linear_modules(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear maps of the decoder layers by full name, in module order: Linear, Conv1D and bitsandbytes' own; no
    head.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    inside = decoder_layers(model)[0] + "."
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name.startswith(inside)
    }


def decoder_layers(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """The list of decoder layers and its name: the first module list as long as the config says that the model is deep."""
    from torch import nn

    depth = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise MethodError(f"{type(model).__name__} has no list of {depth} decoder layers", "use `full` or another model")


def target_module_names(model: PreTrainedModel, targets: str | Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Full names of the modules that `targets` means, and of all others. Raises MethodError where a target means none."""
    linears, words = list(linear_modules(model)), as_tuple(targets)
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linears})
    for word in words:
        if word != ALL_LINEAR and not any(matches(name, word) for name in linears):
            close = get_close_matches(word, leaves, 1)
            hint = f"did you mean {close[0]!r}?" if close else "name some of these"
            raise MethodError(
                f"target {word!r} matches no linear map of the model; there are {', '.join(leaves)}", hint
            )
    everything = not words or ALL_LINEAR in words
    chosen = [name for name in linears if everything or any(matches(name, word) for word in words)]
    taken = set(chosen)
    return chosen, [name for name, _ in model.named_modules() if name not in taken]


def fan_in_fan_out(model: PreTrainedModel, names: Sequence[str]) -> bool:
    """Whether the modules store (in_features, out_features): transformers' Conv1D; a quantised one is stored as a
    Linear.
    """
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)
