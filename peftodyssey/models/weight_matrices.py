"""The weight matrices of a model by the part that they belong to: decoder layers, embeddings, head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from peftodyssey.models.load import linear_names

PARTS = ("blocks", "embeddings", "head")


def weight_matrices(model: nn.Module, parts: Sequence[str] = PARTS) -> dict[str, nn.Parameter]:
    """The matrices of `parts` by name; norms and biases are none of them. A tied head has one name."""
    weights: dict[str, nn.Parameter] = {}
    if "blocks" in parts:
        weights |= {f"{name}.weight": model.get_parameter(f"{name}.weight") for name in linear_names(model)}
    modules = {id(module): name for name, module in model.named_modules()}
    for part, getter in (("embeddings", "get_input_embeddings"), ("head", "get_output_embeddings")):
        module = getattr(model, getter)() if part in parts else None
        if module is not None and all(module.weight is not weight for weight in weights.values()):
            weights[f"{modules[id(module)]}.weight"] = module.weight
    return weights
