"""A model that is larger than the card: its last layers wait in host memory and pass through the card at each use.

Called by `jobs.bases` for the unquantised base of a small card, which is scored there but never trained. The hooks are
accelerate's. `layers_on_card` counts without torch, for the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.model_shape import ModelShape
from peftodyssey.models.shape_from_meta_model import layer_index

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

SCORING_BYTES = 1536 << 20  # left on the card for a scoring pass
SCORING_SHARE = 0.25  # of a small budget


def layers_on_gpu(anatomy: ModelShape, width: int, budget_bytes: int) -> int:
    """Decoder layers, of `width` bytes a weight, that stay on a card of which `budget_bytes` may be used; all where
    they fit.
    """
    outside = width * (anatomy.embedding_parameters + anatomy.head_parameters)
    layer = (width * anatomy.parameters - outside) // anatomy.layers
    room = int(max(budget_bytes * (1 - SCORING_SHARE), budget_bytes - SCORING_BYTES)) - outside
    if room >= layer * anatomy.layers:
        return anatomy.layers
    return max(0, room // layer - 1)  # one passes through


def offload_layers(model: PreTrainedModel, staying: int, device: torch.device) -> PreTrainedModel:
    """`model`, loaded in host memory, with all but its layers from number `staying` on moved to `device`."""
    from accelerate import cpu_offload

    passing = [
        module for name, module in model.named_modules() if _is_layer(name) and (layer_index(name) or 0) >= staying
    ]
    inside = {id(module) for layer in passing for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            _move(module, device)
    for layer in passing:
        cpu_offload(layer, execution_device=device)
    return model


def _is_layer(name: str) -> bool:
    """Whether a module's full name is that of a decoder layer: it ends with the first number in it."""
    *before, last = name.split(".")
    return last.isdigit() and not any(part.isdigit() for part in before)


def _move(module: nn.Module, device: torch.device) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))
