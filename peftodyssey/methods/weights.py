"""Methods that train the model's own weights (`full`, `bitfit`, `last_layers`): attach, detach, export, load, merge."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods import base_dropout
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.mmap_copy import MAPPED_COPY_BYTES, mmap_copy
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def snapshot(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copies on the CPU in their own dtype; above 2 GiB mapped from a file, so that they need not stay in memory."""
    if sum(p.numel() * p.element_size() for p in parameters.values()) > MAPPED_COPY_BYTES:
        return mmap_copy(parameters)
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def attach_weights(model: PreTrainedModel, names: Collection[str], spec: MethodSpec) -> AttachedMethod:
    """Makes the parameters `names` of `model` trainable and freezes the rest.

    Trained weights become float32 unless `master_weights: bf16`, where updates below bf16's resolution are lost; a base
    in half precision then needs autocast. Copies on the CPU allow `detach_weights` to restore the base.
    """
    model.requires_grad_(False)
    trainable = {name: p for name, p in model.named_parameters() if name in names}
    before = snapshot(trainable)
    for parameter in trainable.values():
        if spec.options.get("master_weights", "fp32") == "fp32":
            parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return AttachedMethod(
        spec.method, spec, model, model, trainable, is_adapter=False, initial_weights=before, base_weights=before
    )


def detach_weights(attached: AttachedMethod) -> PreTrainedModel:
    """The base with its weights restored in their own dtype, bit for bit, and nothing trainable."""
    parameters = dict(attached.base.named_parameters())
    for name, stored in attached.base_weights.items():
        parameters[name].data = stored.to(parameters[name].device, copy=True)
        parameters[name].grad = None
    attached.base.requires_grad_(False)
    base_dropout.switch_off(attached.base)
    return attached.base


def export_model(attached: AttachedMethod, folder: Path) -> None:
    """Writes the whole model as transformers loads it: config.json with the base's dropout, and safetensors in the
    dtype it was trained in.
    """
    attached.base.save_pretrained(folder, safe_serialization=True)
    if stated := base_dropout.config_dropout(attached.base):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | stated, indent=2) + "\n", encoding="utf-8")


def merge_weights(attached: AttachedMethod) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model itself: its own weights were trained, so nothing is rounded. The facts are those of `merge_adapter`."""
    attached.base.requires_grad_(False)
    return attached.base, {
        "matrices": 0,
        "stored_as": stored_as(attached.base.parameters()),
        "rounding_share": 0.0,
        "notes": (),
    }


def stored_as(parameters: Iterable[torch.nn.Parameter]) -> str:
    """The dtype of the parameters, e.g. `float32`; several joined by `+`."""
    return "+".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters}))


def load_model_folder(
    model: PreTrainedModel, folder: Path, spec: MethodSpec, *, as_stored: bool = False
) -> AttachedMethod:
    """The weights in `folder` on `model`, in place, for scoring; they must have the model's names and shapes.

    They take the model's data type, or keep their own with `as_stored`.
    """
    if getattr(model, "is_quantized", False):
        raise MethodError(f"{folder} holds a whole model, which a quantised base cannot take", "remove `quant` for it")
    parameters = dict(model.named_parameters())
    loaded = _parameters_in(folder)
    _check_names_and_shapes(folder, parameters, loaded)
    before = snapshot(parameters)
    for name, parameter in parameters.items():
        stored = loaded[name].detach()
        parameter.data = stored.to(parameter.device, stored.dtype if as_stored else parameter.dtype)
    model.requires_grad_(False)
    return AttachedMethod(
        spec.method, spec, model, model, {}, is_adapter=False, initial_weights=before, base_weights=before
    )


def _parameters_in(folder: Path) -> dict[str, torch.nn.Parameter]:
    """The parameters of the model in `folder` by their names in the module tree, which may differ from the file's."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    loaded: Any  # with output_loading_info: (model, info), which transformers does not declare
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise MethodError(
            f"{folder} cannot be read as a model in safetensors: {str(error).splitlines()[0]}", "copy or save it again"
        ) from error
    model, info = loaded
    for what in ("missing_keys", "unexpected_keys"):
        if info[what]:
            raise MethodError(
                f"{folder} has {what.replace('_', ' ')}, first {sorted(info[what])[0]}", "copy or save it again"
            )
    return dict(model.named_parameters())


def _check_names_and_shapes(folder: Path, parameters: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Raises MethodError unless `loaded` has the names and shapes of `parameters`, and no others."""
    missing, unexpected = [n for n in parameters if n not in loaded], [n for n in loaded if n not in parameters]
    shapes = [
        f"{name} {tuple(loaded[name].shape)} for {tuple(p.shape)}"
        for name, p in parameters.items()
        if name in loaded and loaded[name].shape != p.shape
    ]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            raise MethodError(
                f"{folder} does not hold the weights of this model: {len(names)} {what}, first {names[0]}",
                "score it on the base it was made from, or give it as `model` of its own",
            )


def max_change(attached: AttachedMethod) -> float:
    """The largest change of one trained number since `attach`: 0 means that nothing was trained; NaN if one is NaN."""
    import torch

    largest = 0.0
    for name, parameter in attached.trainable.items():
        if parameter.numel():
            change = (parameter.detach().cpu().float() - attached.initial_weights[name].float()).abs().max()
            largest = float(torch.maximum(torch.tensor(largest), change))  # keeps NaN, which max() would lose
    return largest
