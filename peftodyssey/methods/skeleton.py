"""A model's linear maps without numbers, on which PEFT itself says how many parameters an adapter trains. Called by `peft`."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from peftodyssey.anatomy import Anatomy, Matrix
from peftodyssey.errors import MethodError
from peftodyssey.methods.targets import ALL_LINEAR, shortest

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


def count_on_skeleton(config: PeftConfig, anatomy: Anatomy) -> int:
    """Trainable parameters of `config`'s adapter on the decoder layers of `anatomy`. Raises MethodError where PEFT refuses."""
    import torch
    from peft import PeftModel

    config.task_type = None  # the skeleton has no head to wrap
    if getattr(config, "target_modules", None) == ALL_LINEAR:
        config.target_modules = shortest([m.name for m in anatomy.linears], [])  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel(skeleton(anatomy), config)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise MethodError(f"PEFT cannot put {config.peft_type.value} on this model: {error}", "change its fields") from error
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def skeleton(anatomy: Anatomy) -> torch.nn.Module:
    """Modules with the names, sizes and storage order of the decoder layers' linear maps, on the meta device."""
    from torch import nn

    root = nn.Module()
    for matrix in anatomy.linears:
        parent = root
        *path, leaf = matrix.name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]  # type: ignore[assignment]
        parent.add_module(leaf, _linear(matrix, anatomy.family))
    root.config = _config(anatomy)
    return root


def _linear(matrix: Matrix, family: str) -> torch.nn.Module:
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        if family == "gpt2":
            return Conv1D(matrix.out_features, matrix.in_features)
        return nn.Linear(matrix.in_features, matrix.out_features, bias=matrix.bias)


def _config(anatomy: Anatomy) -> Any:
    """What PEFT asks of a model's config: the family, for its default targets, and sizes."""
    words = {
        "model_type": anatomy.family,
        "hidden_size": anatomy.hidden,
        "num_hidden_layers": anatomy.layers,
        "num_attention_heads": anatomy.heads,
    }
    return SimpleNamespace(**words, to_dict=lambda: dict(words))
