"""A model's linear maps without numbers, on which PEFT itself says how many parameters an adapter trains. Called by
`peft`.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import peft_type_name
from peftodyssey.methods.targets import ALL_LINEAR, CONV1D_FAMILIES, shortest_target_modules
from peftodyssey.model_shape import LinearShape, ModelShape

MAX_FILLED_PARAMETERS = 2**28  # numbers of a skeleton with weights, 1 GiB

if TYPE_CHECKING:
    import torch


def count_on_empty_model(config: Any, anatomy: ModelShape) -> int:
    """Trainable parameters of `config`'s adapter on the decoder layers of `anatomy`. Raises MethodError where PEFT
    refuses.

    Some types look at the weights when they start; for these the skeleton is filled with random numbers, up to LARGEST.
    """
    config.task_type = None  # the skeleton has no head to wrap
    if hasattr(
        config, "init_lora_weights"
    ):  # starts that read the base's weights train as many numbers as the plain one
        config.init_lora_weights = "mica" if config.init_lora_weights == "mica" else True
    if getattr(config, "target_modules", None) == ALL_LINEAR:
        config.target_modules = shortest_target_modules([m.name for m in anatomy.linears], [])
    try:
        try:
            return _trainable(deepcopy(config), empty_model(anatomy, "meta"))
        except NotImplementedError:  # what torch says of meta tensors whose numbers are asked for
            return _trainable(config, empty_model(anatomy, _filled(config, anatomy)))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise MethodError(
            f"PEFT cannot put {peft_type_name(config)} on this model: {error}", "change its fields"
        ) from error


def _filled(config: Any, anatomy: ModelShape) -> str:
    """The device for a skeleton with numbers. Raises MethodError where that would take too much memory."""
    if sum(m.parameters for m in anatomy.linears) > MAX_FILLED_PARAMETERS:
        raise MethodError(
            f"{peft_type_name(config)} looks at the weights to choose what it trains, so it cannot be counted on a model of this size",
            "use another type",
        )
    return "cpu"


def _trainable(config: Any, model: torch.nn.Module) -> int:
    import torch
    from peft import PeftModel

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel(model, config)
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def empty_model(anatomy: ModelShape, device: str) -> torch.nn.Module:
    """Modules with the names, sizes and storage order of the decoder layers' linear maps, on `device`."""
    from torch import nn

    root = nn.Module()
    for matrix in anatomy.linears:
        parent = root
        *path, leaf = matrix.name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]  # type: ignore[assignment]
        parent.add_module(leaf, _linear(matrix, anatomy.family, device))
    root.config = _config(anatomy)
    return root


def _linear(matrix: LinearShape, family: str, device: str) -> torch.nn.Module:
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    with torch.device(device):
        if family in CONV1D_FAMILIES:
            return Conv1D(matrix.out_features, matrix.in_features)
        return nn.Linear(matrix.in_features, matrix.out_features, bias=matrix.bias)


def _config(anatomy: ModelShape) -> Any:
    """What PEFT asks of a model's config: the family, for its default targets, and sizes."""
    words = {
        "model_type": anatomy.family,
        "hidden_size": anatomy.hidden,
        "num_hidden_layers": anatomy.layers,
        "num_attention_heads": anatomy.heads,
    }
    return SimpleNamespace(**words, to_dict=lambda: dict(words))
