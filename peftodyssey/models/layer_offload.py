"""Offloading of a model's last decoder layers to host memory: accelerate moves each to the GPU while it is used.

This is for the unquantised base of a small GPU, which is scored but never trained. `layers_on_gpu` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.model_shape import ModelShape
from peftodyssey.models.shape_from_meta_model import layer_index

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

SCORING_BYTES = 1536 << 20  # of the GPU, left free for scoring
SCORING_SHARE = 0.25  # of a small budget, left free instead


def layers_on_gpu(shape: ModelShape, itemsize: int, budget_bytes: int) -> int:
    """Decoder layers, of `itemsize` bytes a weight, that stay on a GPU with `budget_bytes`; all where they fit."""
    outside_bytes = itemsize * (shape.embedding_parameters + shape.head_parameters)
    layer_bytes = (itemsize * shape.parameters - outside_bytes) // shape.layers
    room_bytes = int(max(budget_bytes * (1 - SCORING_SHARE), budget_bytes - SCORING_BYTES)) - outside_bytes
    if room_bytes >= layer_bytes * shape.layers:
        return shape.layers
    return max(0, room_bytes // layer_bytes - 1)  # room for one offloaded layer


def offload_layers(model: PreTrainedModel, num_on_device: int, device: torch.device) -> PreTrainedModel:
    """`model`, loaded in host memory: moved to `device` except for its layers from number `num_on_device` on."""
    from accelerate import cpu_offload

    layers = [(layer_index(name), module) for name, module in model.named_modules() if _is_layer(name)]
    offloaded = [module for index, module in layers if index is not None and index >= num_on_device]
    inside = {id(module) for layer in offloaded for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            _move(module, device)
    for layer in offloaded:
        cpu_offload(layer, execution_device=device)
    return model


def _is_layer(name: str) -> bool:
    """Whether a module's full name is that of a decoder layer: its last part is its only number."""
    *parents, last = name.split(".")
    return last.isdigit() and not any(part.isdigit() for part in parents)


def _move(module: nn.Module, device: torch.device) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))
