"""The update of a finished full fine-tuning cut to a rank: every matrix by singular value decomposition.

It has the rank of a LoRA update but not its training, so it tells a constrained solution from constrained training.
Embeddings and a head of its own are matrices too; norms and biases have no rank, so their update stays in or is left
out as a whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods import svd
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.weights import load_model_folder
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def truncated(update: torch.Tensor, rank: int, vectors: str) -> torch.Tensor:
    """What is left of the `update` of one weight: a matrix of at most `rank`, or a vector where `vectors` is `in`.

    An update that has no more than `rank` rows or columns is returned as it is.
    """
    import torch

    if update.ndim != 2:
        return update if vectors == "in" else torch.zeros_like(update)
    return svd.of_rank(update, rank)


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """The base must be unquantised, as that of full fine-tuning."""
    return ["truncate cuts the update of full fine-tuning, which a quantised base does not have"] if spec.quant else []


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """Nothing trains."""
    return 0


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """There is nothing to attach before the full fine-tuning is there."""
    raise MethodError("truncate is made from the weights of a full fine-tuning", "give their folder to `load`")


class _Truncate(Method):
    @staticmethod
    def load(model: PreTrainedModel, folder: Path, spec: MethodSpec | None = None) -> AttachedMethod:
        """The fully fine-tuned model in `folder` on `model`, in place, its update cut as `spec` says, in float32."""
        assert spec is not None, "the rank is in the spec"
        assert spec.rank is not None, "truncate has a rank"
        rank, vectors = spec.rank, spec.options["vectors"]
        attached = load_model_folder(model, Path(folder), spec, as_stored=True)
        for name, parameter in model.named_parameters():
            before, after = attached.base_weights[name].to(parameter.device).float(), parameter.detach().float()
            left = truncated(update := after - before, rank, vectors)
            parameter.data = after if left is update else before + left  # a whole update without rounding
        return attached


TRUNCATE = _Truncate(
    "truncate",
    "the update of full fine-tuning, cut to a rank by singular value decomposition: scored, not trained",
    check,
    count,
    attach,
    trains=False,
)
