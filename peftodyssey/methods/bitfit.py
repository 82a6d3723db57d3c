"""BitFit (Ben Zaken et al., arXiv 2106.10199): the biases alone are trained, those of norms included. In METHODS as
`bitfit`.
"""

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
    """A model without biases has nothing to train."""
    problems = []
    if not count(point, anatomy):
        problems.append(f"bitfit trains biases and a {anatomy.family} model has none; use lora, ia3 or last_layers")
    if point.quant:
        problems.append(
            f"bitfit is exported as a whole model, which a base stored as {point.quant.kind} does not allow"
        )
    return problems


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """Biases of the linear maps, of the head, and of the norms where these have biases."""
    head = anatomy.head_parameters - anatomy.vocabulary * anatomy.hidden if anatomy.head_parameters else 0
    return sum(m.out_features for m in anatomy.linears if m.bias) + head + _norm_biases(anatomy)


def _norm_biases(anatomy: ModelShape) -> int:
    """Half of the norms' parameters where the last norm has a scale and a shift of the model's width, else none."""
    last_norm = anatomy.norm_parameters - anatomy.layers * anatomy.norm_parameters_by_layer
    return anatomy.norm_parameters // 2 if last_norm == 2 * anatomy.hidden else 0


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """Every parameter called `bias` trainable; nothing is drawn."""
    names = {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
    if not names:
        raise MethodError(f"{type(model).__name__} has no biases to train", "use lora, ia3 or last_layers")
    return attach_weights(model, names, point)


BITFIT = MethodImpl(
    "bitfit",
    "only the biases are trained",
    check,
    count,
    attach,
    export_model,
    load_folder,
    merge_weights,
    detach_weights,
)
