"""The last decoder layers are trained whole, and the final norm with them; embeddings and head stay. In METHODS as
`last_layers`.

`options["layers"]` is how many, counted from the end (1 where not given).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.modules import decoder_layers
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.saved import load_folder
from peftodyssey.methods.weights import attach_weights, detach_weights, export_model, merge_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def num_trained_layers(point: MethodSpec) -> int:
    """How many layers, from the end, are trained."""
    return int(point.options.get("layers", 1))


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """Between one and all of the model's layers, of a base that is not quantised."""
    problems = []
    if not 1 <= num_trained_layers(point) <= anatomy.layers:
        problems.append(
            f"layers is {num_trained_layers(point)} and the model has {anatomy.layers}: give 1 to {anatomy.layers}"
        )
    if point.quant:
        problems.append(f"last_layers trains weights, which a base stored as {point.quant.kind} does not allow")
    return problems


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """Linear maps and norms of the last layers, and the final norm."""
    first = anatomy.layers - num_trained_layers(point)
    linears = sum(m.parameters for m in anatomy.linears if m.layer is not None and m.layer >= first)
    frozen_norms = first * anatomy.norm_parameters_by_layer
    return linears + anatomy.norm_parameters - frozen_norms


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """The last layers and the final norm trainable; nothing is drawn."""
    if getattr(model, "is_quantized", False):
        raise MethodError("last_layers trains weights, which a quantised base does not allow", "use qlora")
    return attach_weights(model, _names(model, num_trained_layers(point)), point)


def _names(model: PreTrainedModel, layers: int) -> set[str]:
    """Names of the parameters of the last layers and of the norm that stands beside the list of layers."""
    inside, modules = decoder_layers(model)
    first, beside = len(modules) - layers, inside.rsplit(".", 1)[0] + "." if "." in inside else ""
    names = set()
    for name, parameter in model.named_parameters():
        if name.startswith(inside + "."):
            if int(name[len(inside) + 1 :].split(".", 1)[0]) >= first:
                names.add(name)
        elif name.startswith(beside) and parameter.ndim == 1 and name.count(".") == beside.count(".") + 1:
            names.add(name)
    return names


LAST_LAYERS = MethodImpl(
    "last_layers",
    "only the last decoder layers and the final norm are trained",
    check,
    count,
    attach,
    export_model,
    load_folder,
    merge_weights,
    detach_weights,
)
