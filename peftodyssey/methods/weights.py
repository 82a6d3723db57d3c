"""A model's own weights as a method's subject: train some, remember them, put them back, write the whole model, read
one.

Called by the methods that train the model itself (`full`, `bitfit`, `last_layers`) and by those that score or restore
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.mmap_copy import MAPPED_COPY_BYTES, mmap_copy
from peftodyssey.methods.protocol import AttachedMethod
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def snapshot(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copies on the CPU, in the type they are stored in; large ones in a file, so that they take no memory for good."""
    if sum(p.numel() * p.element_size() for p in parameters.values()) > MAPPED_COPY_BYTES:
        return mmap_copy(parameters)
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def attach_weights(model: PreTrainedModel, names: Collection[str], point: MethodSpec) -> AttachedMethod:
    """Makes the parameters `names` of `model` trainable and freezes the rest.

    Trained weights become float32 unless `master_weights: bf16` (half-precision steps below their resolution are lost);
    the forward pass then needs autocast for a base in half precision. A copy on the CPU undoes it.
    """
    model.requires_grad_(False)
    chosen = {name: p for name, p in model.named_parameters() if name in names}
    before = snapshot(chosen)
    for parameter in chosen.values():
        if point.options.get("master_weights", "fp32") == "fp32":
            parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return AttachedMethod(
        point.method, point, model, model, chosen, is_adapter=False, initial_weights=before, base_weights=before
    )


def detach_weights(attached: AttachedMethod) -> PreTrainedModel:
    """The base with its weights put back in their own type, bit for bit, and nothing trainable."""
    parameters = dict(attached.base.named_parameters())
    for name, stored in attached.base_weights.items():
        parameters[name].data = stored.to(parameters[name].device, copy=True)
        parameters[name].grad = None
    attached.base.requires_grad_(False)
    return attached.base


def export_model(attached: AttachedMethod, folder: Path, base_name: str | None = None) -> None:
    """Writes the whole model as transformers loads it: config.json and safetensors, in the type it was trained in."""
    attached.base.save_pretrained(folder, safe_serialization=True)


def merge_weights(
    attached: AttachedMethod, base: PreTrainedModel | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model itself: its weights are the update, so nothing is rounded."""
    attached.base.requires_grad_(False)
    return attached.base, {"matrices": 0, "stored_as": stored_as(attached.base.parameters()), "rounding_share": 0.0}


def stored_as(parameters: Iterable[torch.nn.Parameter]) -> str:
    """The type of the parameters' numbers, e.g. `float32`; several joined by `+`."""
    return "+".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters}))


def load_model_folder(model: PreTrainedModel, folder: Path, point: MethodSpec) -> AttachedMethod:
    """The weights in `folder` on `model`, in place, for scoring; they must have the model's names and shapes."""
    if getattr(model, "is_quantized", False):
        raise MethodError(
            f"{folder} holds a whole model, which cannot be put on a quantised base", "drop `quant` for it"
        )
    parameters = dict(model.named_parameters())
    found = _parameters_in(folder)
    _check_names_and_shapes(folder, parameters, found)
    before = snapshot(parameters)
    for name, parameter in parameters.items():
        parameter.data = found[name].detach().to(parameter.device, parameter.dtype)
    model.requires_grad_(False)
    return AttachedMethod(
        point.method, point, model, model, {}, is_adapter=False, initial_weights=before, base_weights=before
    )


def _parameters_in(folder: Path) -> dict[str, torch.nn.Parameter]:
    """The parameters of the model in `folder`, by their names in the module tree, which differ from the file's in some
    families.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    loaded: Any
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


def _check_names_and_shapes(folder: Path, parameters: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises MethodError unless `found` has the names and shapes of `parameters`, and no others."""
    missing, extra = [n for n in parameters if n not in found], [n for n in found if n not in parameters]
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(p.shape)}"
        for name, p in parameters.items()
        if name in found and found[name].shape != p.shape
    ]
    for what, names in (("lacks", missing), ("has no place for", extra), ("has other shapes in", shapes)):
        if names:
            raise MethodError(
                f"{folder} does not hold the weights of this model: it {what} {len(names)}, first {names[0]}",
                "score it on the base it was made from, or give it as `model` of its own",
            )


def frozen_digest(model: torch.nn.Module, trainable: Collection[str] = ()) -> str:
    """sha256 over the bytes of all parameters and persistent buffers not named in `trainable`, quantised storage
    included.

    Another name of a trainable parameter (a tied head) counts as trainable too.
    """
    import torch

    places = dict(model.named_parameters(remove_duplicate=False))
    trained = {id(places[name]) for name in trainable}
    skipped = {name for name, parameter in places.items() if id(parameter) in trained}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in skipped or not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def max_change(attached: AttachedMethod) -> float:
    """The largest change of one trained number since `attach`: 0 means that nothing was trained. NaN where one became
    NaN.
    """
    import torch

    furthest = 0.0
    for name, parameter in attached.trainable.items():
        change = (
            (parameter.detach().cpu().float() - attached.initial_weights[name].float()).abs().max()
            if parameter.numel()
            else None
        )
        if change is not None:
            furthest = float(torch.maximum(torch.tensor(furthest), change))  # keeps NaN, which max() would lose
    return furthest
