"""BitFit (Ben Zaken et al., arXiv 2106.10199): only the biases are trained, those of norms included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.weights import attach_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """A model without biases has nothing to train."""
    problems = []
    if not count(spec, shape):
        problems.append(f"bitfit trains biases and a {shape.family} model has none; use lora, ia3 or last_layers")
    if spec.quant:
        problems.append(f"bitfit is exported as a whole model, which a base stored as {spec.quant.kind} does not allow")
    return problems


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """Biases of the linear maps, of the head, and of the norms where these have biases."""
    head = shape.head_parameters - shape.vocabulary * shape.hidden if shape.head_parameters else 0
    return sum(m.out_features for m in shape.linears if m.bias) + head + _norm_biases(shape)


def _norm_biases(shape: ModelShape) -> int:
    """Half of the norms' parameters where the final norm has a weight and a bias, else none."""
    last_norm = shape.norm_parameters - shape.layers * shape.norm_parameters_by_layer
    return shape.norm_parameters // 2 if last_norm == 2 * shape.hidden else 0


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """Every parameter named `bias` trainable; nothing is drawn."""
    names = {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
    if not names:
        raise MethodError(f"{type(model).__name__} has no biases to train", "use lora, ia3 or last_layers")
    return attach_weights(model, names, spec)


BITFIT = Method("bitfit", "only the biases are trained", check, count, attach)
