"""Full fine-tuning: every parameter of the model is trained, a tied one once. In METHODS as `full`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.saved import load_folder
from peftodyssey.methods.weights import attach_weights, detach_weights, export_model, merge_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """A quantised base cannot be trained itself, and master weights are fp32 or bf16."""
    problems = []
    if point.quant:
        problems.append(f"full trains the weights themselves, which a base stored as {point.quant.kind} does not allow")
    master = point.options.get("master_weights", "fp32")
    if master not in ("fp32", "bf16"):
        problems.append(f"master_weights is fp32 or bf16, not {master!r}")
    return problems


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """All parameters, a tied head once."""
    return anatomy.parameters


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """All parameters trainable, in float32 unless `master_weights: bf16`; nothing is drawn, so `seed` plays no part."""
    if getattr(model, "is_quantized", False):
        raise MethodError("full trains the weights themselves, which a quantised base does not allow", "use qlora")
    return attach_weights(model, {name for name, _ in model.named_parameters()}, point)


FULL = MethodImpl(
    "full",
    "every weight of the model is trained",
    check,
    count,
    attach,
    export_model,
    load_folder,
    merge_weights,
    detach_weights,
)
