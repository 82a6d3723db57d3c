"""What a method is to the rest of the program, and what attaching one to a model gives. Read by every caller of
`methods`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AttachedMethod:
    """A base model with a method on it: what is called forward, what is trained, and what undoing it needs."""

    method: str  # name in METHODS
    spec: MethodSpec
    model: Any  # torch.nn.Module: call this forward: PEFT's wrapper, or the base itself
    base: PreTrainedModel  # the model that was given; adapters sit inside it
    trainable: dict[str, torch.nn.Parameter]  # by their names in `model`; a tied weight once
    is_adapter: bool  # exported as a PEFT adapter; else as a whole model
    initial_weights: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # `trainable` as it was before training, on the CPU
    base_weights: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of `base` to put back, on the CPU


class Method(Protocol):
    """One constraint on the update. `check` and `count` work on words and numbers and import no torch."""

    @property
    def name(self) -> str:
        """Key in METHODS."""

    @property
    def summary(self) -> str:
        """One sentence for people."""

    @property
    def trains(self) -> bool:
        """False for what exists already and is only scored."""

    def check(self, point: MethodSpec, anatomy: ModelShape) -> list[str]:
        """Problems in words, none where the method can be used on this model."""

    def count(self, point: MethodSpec, anatomy: ModelShape) -> int:
        """Parameters that will train."""

    def attach(self, model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
        """Puts the method on `model`, in place; its start depends on `seed` alone. Raises MethodError."""

    def export(self, attached: AttachedMethod, folder: Path, base_name: str | None = None) -> None:
        """Writes what plain `peft` or `transformers` loads; `base_name` is what the adapter says it belongs to."""

    def load(self, model: PreTrainedModel, folder: Path, point: MethodSpec | None = None) -> AttachedMethod:
        """What `export` (or another tool) wrote, on `model` in place, for scoring: nothing trainable. Raises
        MethodError.
        """

    def merge(
        self, attached: AttachedMethod, base: PreTrainedModel | None = None
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """A plain model with the update in its weights, and the drift of rounding; `attached` is used up unless `base`
        is given.
        """

    def detach(self, attached: AttachedMethod) -> PreTrainedModel:
        """The base as it was before `attach`, bit for bit."""


@dataclass(frozen=True)
class MethodImpl:
    """A Method made of functions: what each method's file ends with."""

    name: str
    summary: str
    check: Callable[[MethodSpec, ModelShape], list[str]]
    count: Callable[[MethodSpec, ModelShape], int]
    attach: Callable[..., AttachedMethod]
    export: Callable[..., None]
    load: Callable[..., AttachedMethod]
    merge: Callable[..., tuple[Any, dict[str, Any]]]
    detach: Callable[[AttachedMethod], Any]
    trains: bool = True
