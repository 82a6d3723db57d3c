"""Something trained before, here or by another tool: a PEFT adapter folder or a model folder, scored and not trained.

In METHODS as `saved`; its `load_folder` is also how every other method reads what it exported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import (
    CONFIG,
    WEIGHTS,
    detach_adapter,
    export_adapter,
    load_adapter_folder,
    merge_adapter,
)
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.weights import detach_weights, export_model, load_model_folder, merge_weights
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """A folder with an adapter or a model in safetensors; a whole model must be of the base's family and unquantised."""
    if not point.options.get("path"):
        return ["saved needs the path of an adapter or model folder"]
    folder = Path(point.options["path"])
    if not folder.is_dir():
        return [f"there is no folder {folder}"]
    if (folder / CONFIG).exists():
        return [] if (folder / WEIGHTS).exists() else [f"{folder} has no {WEIGHTS}; pickled weights are not read"]
    return _model_problems(folder, point, anatomy)


def _model_problems(folder: Path, point: MethodSpec, anatomy: ModelShape) -> list[str]:
    if not (folder / "config.json").exists():
        return [f"{folder} has neither {CONFIG} (an adapter) nor config.json (a model)"]
    problems = []
    if not any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        problems.append(f"{folder} has no model.safetensors; pickled weights are not read")
    family = json.loads((folder / "config.json").read_text()).get("model_type")
    if family != anatomy.family:
        problems.append(
            f"{folder} holds a {family} model and the base is {anatomy.family}: give it as `model` of its own"
        )
    if point.quant:
        problems.append(f"{folder} holds a whole model, which cannot be put on a base stored as {point.quant.kind}")
    return problems


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """Nothing trains."""
    return 0


def load_folder(model: PreTrainedModel, folder: Path, point: MethodSpec | None = None) -> AttachedMethod:
    """An adapter or a whole model in `folder` on `model`, in place, for scoring. Raises MethodError where they do not
    fit.
    """
    folder = Path(folder)
    point = point or MethodSpec("saved", folder.name, options={"path": str(folder)})
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists():
        return load_adapter_folder(model, folder, point)
    return load_model_folder(model, folder, point)


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """What lies at the point's path, on `model`; nothing is drawn."""
    if not point.options.get("path"):
        raise MethodError("saved needs the path of an adapter or model folder", "give `path: ./my-adapter`")
    return load_folder(model, Path(point.options["path"]), point)


def export(attached: AttachedMethod, folder: Path, base_name: str | None = None) -> None:
    """Writes it again, as an adapter or a model, whichever it is."""
    (export_adapter if attached.is_adapter else export_model)(attached, folder, base_name)


def merge(attached: AttachedMethod, base: PreTrainedModel | None = None) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A plain model; see `merge_adapter`."""
    return (merge_adapter if attached.is_adapter else merge_weights)(attached, base)


def detach(attached: AttachedMethod) -> PreTrainedModel:
    """The base as it was."""
    return (detach_adapter if attached.is_adapter else detach_weights)(attached)


SAVED = MethodImpl(
    "saved",
    "an adapter or model that exists already: scored, not trained",
    check,
    count,
    attach,
    export,
    load_folder,
    merge,
    detach,
    False,
)
