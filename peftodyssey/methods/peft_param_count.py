"""Counting an adapter's trainable parameters with PEFT itself, on linear maps without storage."""

from __future__ import annotations

import warnings
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import peft_type_name
from peftodyssey.methods.patterns import check_patterns
from peftodyssey.methods.peft_errors import as_method_error
from peftodyssey.methods.targets import ALL_LINEAR, CONV1D_FAMILIES, shortest_target_modules
from peftodyssey.model_shape import LinearShape, ModelShape

if TYPE_CHECKING:
    import torch

MAX_FILLED_PARAMETERS = 2**28  # of linear maps with random weights: 1 GiB


def count_on_empty_model(config: Any, shape: ModelShape) -> int:
    """Trainable parameters of `config`'s adapter on the decoder layers of `shape`. Raises MethodError where PEFT
    refuses.

    For types that read the weights when they are initialised, the linear maps get random weights, up to 1 GiB.
    """
    config.task_type = None  # the linear maps have no head to wrap
    if hasattr(config, "init_lora_weights"):  # other inits than mica's train as many parameters as the default
        config.init_lora_weights = "mica" if config.init_lora_weights == "mica" else True
    if getattr(config, "target_modules", None) == ALL_LINEAR:
        config.target_modules = shortest_target_modules([m.name for m in shape.linears], [])
    check_patterns(vars(config), [linear.name for linear in shape.linears])
    with as_method_error(f"PEFT cannot put {peft_type_name(config)} on this model", "change its fields"):
        try:
            return _count_trainable(deepcopy(config), empty_model(shape, "meta"))
        except NotImplementedError:  # torch's error where the values of meta tensors are read
            _check_size(config, shape)
            return _count_trainable(config, empty_model(shape, "cpu"))


def _check_size(config: Any, shape: ModelShape) -> None:
    """Raises MethodError where random weights would take too much memory."""
    if sum(m.parameters for m in shape.linears) > MAX_FILLED_PARAMETERS:
        raise MethodError(
            f"{peft_type_name(config)} reads the weights to choose what it trains, which cannot be counted on a model "
            "of this size",
            "use another type",
        )


def _count_trainable(config: Any, model: torch.nn.Module) -> int:
    import torch
    from peft import PeftModel

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModel(model, config)
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def empty_model(shape: ModelShape, device: str) -> torch.nn.Module:
    """Modules with the names, sizes and storage order of the decoder layers' linear maps, on `device`."""
    from torch import nn

    root = nn.Module()
    for linear in shape.linears:
        parent = root
        *path, leaf = linear.name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, _linear_module(linear, shape.family, device))
    config = {  # what PEFT reads of a model's config: the family, for its default targets, and sizes
        "model_type": shape.family,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }
    vars(root)["config"] = SimpleNamespace(**config, to_dict=lambda: dict(config))
    return root


def _linear_module(linear: LinearShape, family: str, device: str) -> torch.nn.Module:
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    with torch.device(device):
        if family in CONV1D_FAMILIES:
            return Conv1D(linear.out_features, linear.in_features)
        return nn.Linear(linear.in_features, linear.out_features, bias=linear.bias)
