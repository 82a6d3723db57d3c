"""What a method is to the rest of the program. A method's file ends with one `Method`; `registry` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.methods import adapter, weights
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Method:
    """One way to adapt a model. `check` and `count` work without torch.

    Export, load, merge and detach are the same for all PEFT adapters, and for all methods that train the model's own
    weights.
    """

    name: str  # key in METHODS
    summary: str  # one sentence for `methods list`
    check: Callable[[MethodSpec, ModelShape], list[str]]  # problems in words; none where the method can be used
    count: Callable[[MethodSpec, ModelShape], int]  # trainable parameters
    attach: Callable[[PreTrainedModel, MethodSpec, int], AttachedMethod]  # in place, initialised from the seed alone
    trains: bool = True  # False for what exists already and is only scored

    @staticmethod
    def export(attached: AttachedMethod, folder: Path, base_name: str | None = None) -> None:
        """Writes what plain `peft` or `transformers` loads; an adapter's config names `base_name` as its base."""
        if attached.is_adapter:
            adapter.export_adapter(attached, folder, base_name)
        else:
            weights.export_model(attached, folder)

    @staticmethod
    def load(model: PreTrainedModel, folder: Path, spec: MethodSpec | None = None) -> AttachedMethod:
        """An exported adapter or whole model on `model`, in place, for scoring: nothing is trainable.

        Raises MethodError where it does not belong to `model`.
        """
        folder = Path(folder)
        spec = spec or MethodSpec("saved", folder.name, options={"path": str(folder)})
        if (folder / adapter.CONFIG).exists() or not (folder / "config.json").exists():
            return adapter.load_adapter_folder(model, folder, spec)
        return weights.load_model_folder(model, folder, spec)

    @staticmethod
    def merge(attached: AttachedMethod, base: PreTrainedModel | None = None) -> tuple[PreTrainedModel, dict[str, Any]]:
        """A plain model with the update in its weights, and the rounding error of the merge (see `merge_adapter`).

        `attached` cannot be used afterwards unless `base` is given.
        """
        return adapter.merge_adapter(attached, base) if attached.is_adapter else weights.merge_weights(attached)

    @staticmethod
    def detach(attached: AttachedMethod) -> PreTrainedModel:
        """The base as it was before `attach`, bit for bit."""
        return adapter.detach_adapter(attached) if attached.is_adapter else weights.detach_weights(attached)
