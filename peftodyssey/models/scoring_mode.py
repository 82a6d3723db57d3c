"""The mode that a model is scored in: evaluation mode, but 4-bit modules on a CPU stay in training mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def is_4bit(module: nn.Module) -> bool:
    """Whether `module` itself is a bitsandbytes 4-bit linear map, not a wrapper of one; needs no bitsandbytes."""
    return type(module._parameters.get("weight")).__name__ == "Params4bit"


def set_scoring_mode(model: nn.Module) -> nn.Module:
    """Sets evaluation mode, except for 4-bit modules on a CPU, which stay in training mode.

    bitsandbytes 0.50 repacks their bytes in an evaluation-mode forward on CPUs with AVX512-BF16, after which gradients
    are wrong. The wrappers of these modules are in evaluation mode, so adapters' dropout is off.
    """
    model.eval()
    for module in model.modules():
        if is_4bit(module) and module.weight.device.type == "cpu":
            module.training = True
    return model


@contextlib.contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Scoring mode without gradients while the body runs; afterwards every module has its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    set_scoring_mode(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
