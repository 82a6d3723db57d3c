"""The last decoder layers and the final norm are trained; embeddings and head stay as they are.

`options["layers"]` is the number of layers, 1 by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.modules import decoder_layers
from peftodyssey.methods.weights import attach_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def num_trained_layers(spec: MethodSpec) -> int:
    """Number of trained layers, counted from the end."""
    return int(spec.options.get("layers", 1))


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Between one and all of the model's layers, of a base that is not quantised."""
    problems = []
    if not 1 <= num_trained_layers(spec) <= shape.layers:
        problems.append(
            f"layers is {num_trained_layers(spec)} and the model has {shape.layers}: give 1 to {shape.layers}"
        )
    if spec.quant:
        problems.append(f"last_layers trains weights, which a base stored as {spec.quant.kind} does not allow")
    return problems


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """Linear maps and norms of the last layers, and the final norm."""
    first = shape.layers - num_trained_layers(spec)
    linears = sum(m.parameters for m in shape.linears if m.layer is not None and m.layer >= first)
    frozen_norms = first * shape.norm_parameters_by_layer
    return linears + shape.norm_parameters - frozen_norms


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """The last layers and the final norm trainable; nothing is drawn."""
    if getattr(model, "is_quantized", False):
        raise MethodError("last_layers trains weights, which a quantised base does not allow", "use qlora")
    return attach_weights(model, _names(model, num_trained_layers(spec)), spec)


def _names(model: PreTrainedModel, layers: int) -> set[str]:
    """Names of the parameters of the last layers, and of the norm in the same module as the list of layers."""
    list_name, modules = decoder_layers(model)
    parent, first = list_name.rpartition(".")[0], len(modules) - layers
    names = set()
    for name, parameter in model.named_parameters():
        if name.startswith(list_name + "."):
            if int(name[len(list_name) + 1 :].split(".", 1)[0]) >= first:
                names.add(name)
        elif parameter.ndim == 1 and name.rpartition(".")[0].rpartition(".")[0] == parent:
            names.add(name)
    return names


LAST_LAYERS = Method("last_layers", "only the last decoder layers and the final norm are trained", check, count, attach)
