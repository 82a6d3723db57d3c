"""The mode that a model is scored in. Called by `score`, and by every check here that runs a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def is_4bit(module: nn.Module) -> bool:
    """Whether `module` is a bitsandbytes 4-bit linear map itself (not what wraps it; bitsandbytes may be absent)."""
    return type(module._parameters.get("weight")).__name__ == "Params4bit"


def set_scoring_mode(model: nn.Module) -> nn.Module:
    """Sets the mode for scoring: evaluation, but 4-bit modules on a CPU stay in training mode.

    bitsandbytes 0.50 repacks their bytes in an evaluation-mode forward on CPUs with AVX512-BF16, after which gradients
    are wrong. Adapters' dropout is off: only the 4-bit modules themselves are switched, not what wraps them.
    """
    model.eval()
    for module in model.modules():
        if is_4bit(module) and module.weight.device.type == "cpu":
            module.training = True
    return model


@contextlib.contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Scoring mode without gradients while the body runs; every module's own mode afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    set_scoring_mode(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
