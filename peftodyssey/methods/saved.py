"""An existing PEFT adapter folder or model folder, from here or from another tool: scored, not trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter_files import CONFIG, other_base_note, read_adapter
from peftodyssey.methods.adapter_files import notes as adapter_notes
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Problems: no adapter or model in safetensors, or a whole model of another family or for a quantised base."""
    if not spec.options.get("path"):
        return ["saved needs the path of an adapter or model folder"]
    folder = Path(spec.options["path"])
    if not folder.is_dir():
        return [f"there is no folder {folder}"]
    if (folder / CONFIG).exists():
        try:
            read_adapter(folder)
        except MethodError as error:
            return [f"{error.message} ({error.next_step})"]
        return []
    return _model_problems(folder, spec, shape)


def _model_problems(folder: Path, spec: MethodSpec, shape: ModelShape) -> list[str]:
    if not (folder / "config.json").exists():
        return [f"{folder} has neither {CONFIG} (an adapter) nor config.json (a model)"]
    problems = []
    if not any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        problems.append(f"{folder} has no model.safetensors; pickled weights are not read")
    family = json.loads((folder / "config.json").read_text()).get("model_type")
    if family != shape.family:
        problems.append(
            f"{folder} holds a {family} model and the base is {shape.family}: give it as `model` of its own"
        )
    if spec.quant:
        problems.append(f"{folder} holds a whole model, which cannot be put on a base stored as {spec.quant.kind}")
    return problems


def notes(folder: Path, base: str | None = None) -> list[str]:
    """What must be said of an adapter wherever it is used, such as that it changes nothing; none of a whole model.

    With `base`, the name of the model that it is put on, also that it was made for another one.
    """
    if not (folder / CONFIG).exists():
        return []
    adapter = read_adapter(folder)
    return [*adapter_notes(adapter), *(other_base_note(adapter, base) if base else [])]


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """Nothing trains."""
    return 0


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """The adapter or model at the spec's path on `model`; nothing is drawn."""
    if not spec.options.get("path"):
        raise MethodError("saved needs the path of an adapter or model folder", "give `path: ./my-adapter`")
    return Method.load(model, Path(spec.options["path"]), spec)


SAVED = Method(
    "saved", "an adapter or model that exists already: scored, not trained", check, count, attach, trains=False
)
