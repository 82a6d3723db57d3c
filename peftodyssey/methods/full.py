"""Full fine-tuning: every parameter of the model is trained, a tied one once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods import base_dropout
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.weights import attach_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """A quantised base cannot be trained itself; master weights are fp32 or bf16."""
    problems = []
    if spec.quant:
        problems.append(f"full trains the weights themselves, which a base stored as {spec.quant.kind} does not allow")
    master = spec.options.get("master_weights", "fp32")
    if master not in ("fp32", "bf16"):
        problems.append(f"master_weights is fp32 or bf16, not {master!r}")
    return problems


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """All parameters, a tied head once."""
    return shape.parameters


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """All parameters trainable, in float32 unless `master_weights: bf16`; nothing is drawn, so `seed` is not used.

    `dropout: config` switches on the dropout of the base's config.
    """
    if getattr(model, "is_quantized", False):
        raise MethodError("full trains the weights themselves, which a quantised base does not allow", "use qlora")
    attached = attach_weights(model, {name for name, _ in model.named_parameters()}, spec)
    if spec.options.get("dropout") != "config":
        return attached
    if not (applied := base_dropout.switch_on(model)):
        raise MethodError(
            f"{spec.label}: the config of the base states no dropout that its modules apply", "remove `dropout: config`"
        )
    return replace(attached, notes=(base_dropout.note(model, applied),))


FULL = Method("full", "every weight of the model is trained", check, count, attach)
