"""A base model with a method on it: what attaching a method returns, and what undoing it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AttachedMethod:
    """A base model with a method on it."""

    method: str  # name in METHODS
    spec: MethodSpec
    model: Any  # torch.nn.Module whose forward is called: PEFT's wrapper, or the base itself
    base: PreTrainedModel  # the model that was given; adapters are inside it
    trainable: dict[str, torch.nn.Parameter]  # by their names in `model`; a tied weight once
    is_adapter: bool  # exported as a PEFT adapter; otherwise as a whole model
    initial_weights: dict[str, torch.Tensor] = field(default_factory=dict)  # `trainable` before training, on the CPU
    base_weights: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of `base` to restore, on the CPU
    notes: tuple[str, ...] = ()  # what must be said of an adapter that was loaded: that it changes nothing, ...
