"""PEFT adapters: attach a config to a model, export, load, merge and detach.

An init_lora_weights such as pissa changes the base weights: `detach_adapter` restores them, and `export_adapter` writes
a plain LoRA of twice the rank for the original base.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter_files import CONFIG, WEIGHTS, read_adapter
from peftodyssey.methods.adapter_files import notes as adapter_notes
from peftodyssey.methods.adapter_layouts import as_peft_reads_it
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.modules import linear_modules
from peftodyssey.methods.patterns import check_patterns
from peftodyssey.methods.peft_errors import as_method_error
from peftodyssey.methods.tied_head import UNTIED, part_head, tie_or_untie
from peftodyssey.methods.weights import snapshot, stored_as
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

ADAPTER_NAME = "default"  # PEFT's
BASE_MODIFYING_INITS = ("pissa", "olora", "corda", "loftq")


def peft_type_name(config: PeftConfig) -> str:
    """The PEFT type of a config, in capitals."""
    from peft import PeftType

    return str(PeftType(config.peft_type).value)


@contextlib.contextmanager
def seeded(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Random numbers in the body depend on `seed` alone, on every device of the model; outer generators stay."""
    import torch

    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def preserve_training_flags(model: torch.nn.Module) -> Iterator[None]:
    """Restores each module's training flag afterwards: PEFT calls eval(), and 4-bit modules on a CPU need train()."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def attach_adapter(model: PreTrainedModel, config: PeftConfig, spec: MethodSpec, seed: int) -> AttachedMethod:
    """The adapter of `config` on `model`, in place, initialised from `seed`; float32 whatever the base's dtype.

    Base weights that the initialisation changes are copied first. Raises MethodError with PEFT's reason where PEFT
    refuses.
    """
    from peft import get_peft_model

    check_patterns(vars(config), [name for name, _ in model.named_modules()])
    base_weights = _weights_to_restore(model, config)
    model.requires_grad_(False)
    with (
        as_method_error(f"{spec.label}: PEFT cannot put this adapter on the model", "change its fields"),
        seeded(model, seed),
        preserve_training_flags(model),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        wrapped: Any = get_peft_model(model, config)
    trainable = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    return AttachedMethod(spec.method, spec, wrapped, model, trainable, True, snapshot(trainable), base_weights)


def detach_adapter(attached: AttachedMethod) -> PreTrainedModel:
    """The base without its adapter, bit for bit as it was; weights that the initialisation changed are restored."""
    base = attached.model.unload()
    for name, stored in attached.base_weights.items():
        weight = base.get_parameter(name)
        weight.data = stored.to(weight.device, copy=True)
    return _clear_peft_attributes(base)


def _clear_peft_attributes(base: PreTrainedModel) -> PreTrainedModel:
    """`base` without PEFT's attributes, with which PEFT would take the next adapter for a second one."""
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(base):
            delattr(base, name)
    base.requires_grad_(False)
    return base


def export_adapter(attached: AttachedMethod, folder: Path, base_name: str | None = None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, which plain `peft` loads on the original base."""
    wrapped: PeftModel = attached.model
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with preserve_training_flags(wrapped), tempfile.TemporaryDirectory() as scratch:
        is_converted = bool(attached.initial_weights and attached.base_weights) and wrapped.peft_type == "LORA"
        initial = _initial_adapter(attached, Path(scratch)) if is_converted else None
        with seeded(wrapped, 0):  # the conversion makes a temporary adapter, which must not move the generators
            wrapped.save_pretrained(
                str(folder), save_embedding_layers=False, path_initial_model_for_weight_conversion=initial
            )
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    _set_base_model_name(folder / CONFIG, base_name)


def _initial_adapter(attached: AttachedMethod, folder: Path) -> str:
    """The adapter as it was before training, in a folder: PEFT subtracts it to make a plain LoRA."""
    from safetensors.torch import save_file

    initial = folder / "pissa_initial"  # the folder's name is the adapter's; PEFT requires one of its inits in it
    initial.mkdir()
    save_file(
        {name.replace(".default.", "."): t.contiguous() for name, t in attached.initial_weights.items()},
        initial / WEIGHTS,
    )
    attached.model.peft_config[ADAPTER_NAME].save_pretrained(initial)
    return str(initial)


def _set_base_model_name(config_file: Path, base_name: str | None) -> None:
    """Writes `base_name` (null where unknown) into an adapter's config as its base model."""
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = base_name
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapter_folder(model: PreTrainedModel, folder: Path, spec: MethodSpec) -> AttachedMethod:
    """The adapter in `folder` on `model`, in place, for scoring. Raises MethodError if it belongs to another base."""
    from peft import PeftConfig, get_peft_model
    from safetensors import SafetensorError

    folder = Path(folder)
    readable, notes = as_peft_reads_it(folder, [name for name, _ in model.named_modules()])
    try:
        config = PeftConfig.from_pretrained(str(readable))
        config.inference_mode = True
        reject_prompt_learning(config, folder)
        check_patterns(vars(config), [name for name, _ in model.named_modules()])
        base_weights = _weights_to_restore(model, config)
        with seeded(model, 0), preserve_training_flags(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped: Any = get_peft_model(model, config)
            result = wrapped.load_adapter(str(readable), ADAPTER_NAME, is_trainable=False)
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise MethodError(
            f"the adapter in {folder} cannot be put on this model: {' '.join(reason[:3])}",
            "score it on the base it was made for",
        ) from error
    _check_keys(folder, wrapped, result)
    _check_finite(folder, wrapped)
    wrapped.requires_grad_(False)
    said = (*adapter_notes(read_adapter(folder)), *notes)
    return AttachedMethod(spec.method, spec, wrapped, model, {}, True, {}, base_weights, said)


def _check_finite(folder: Path, wrapped: PeftModel) -> None:
    """Raises MethodError for a tensor of the adapter that holds NaN or infinity."""
    from peft import get_peft_model_state_dict

    for name, tensor in get_peft_model_state_dict(wrapped).items():
        if broken := int((~tensor.isfinite()).sum()):
            raise MethodError(
                f"the adapter in {folder} has {broken:,} NaN or infinite of {tensor.numel():,} numbers in {name}",
                "its training diverged: take an earlier checkpoint, or copy it again",
            )


def changes_base_weights(config: PeftConfig) -> bool:
    """Whether attaching this adapter changes the base weights: a part of them moves into the adapter."""
    return (
        str(getattr(config, "init_lora_weights", "")).startswith(BASE_MODIFYING_INITS)
        or peft_type_name(config) == "OSF"
    )


def _weights_to_restore(model: PreTrainedModel, config: PeftConfig) -> dict[str, torch.Tensor]:
    """Copies of the linear maps' weights where `config` changes them; otherwise empty."""
    if not changes_base_weights(config):
        return {}
    return snapshot(
        {f"{name}.weight": module.get_parameter("weight") for name, module in linear_modules(model).items()}
    )


def reject_prompt_learning(config: PeftConfig, where: Any) -> None:
    """Raises MethodError for prompt learning, whose virtual tokens shift rows and positions."""
    if config.is_prompt_learning:
        raise MethodError(
            f"{where}: {peft_type_name(config)} puts virtual tokens before each sequence, which packing, windows and "
            "per-token scores do not allow",
            "use an adapter of the layers",
        )


def _check_keys(folder: Path, wrapped: PeftModel, result: Any) -> None:
    """Raises MethodError for unexpected and for missing keys, of which PEFT only warns.

    A parameter that several layers share is written under one name: its other names are not missing.
    """
    parameters = dict(wrapped.named_parameters(remove_duplicate=False))
    loaded = {id(p) for name, p in parameters.items() if name not in set(result.missing_keys)}
    missing = [key for key in result.missing_keys if id(parameters.get(key)) not in loaded]
    for what, keys in (("unexpected keys", result.unexpected_keys), ("missing keys", missing)):
        if keys:
            raise MethodError(
                f"the adapter in {folder} does not belong to this model: {len(keys)} {what}, first {keys[0]}",
                "score it on the base it was made for",
            )


def merge_adapter(
    attached: AttachedMethod, base: PreTrainedModel | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A plain model with the adapter in its weights, and the rounding error.

    Facts: `matrices` merged, `stored_as` dtype, `rounding_share` = |merged - (weight + update)| / |update| in Frobenius
    norm over all of them (None where the update is not additive), `notes` on a tied head that the merge parted. Merges
    into `base` where given; otherwise `attached` cannot be used afterwards. Raises MethodError for a quantised base
    without `base`.
    """
    if base is not None:
        with tempfile.TemporaryDirectory() as scratch:
            export_adapter(attached, Path(scratch))
            return merge_adapter(load_adapter_folder(base, Path(scratch), attached.spec))
    if getattr(attached.base, "is_quantized", False):
        raise MethodError("an adapter is not merged into quantised weights", "give the unquantised base to merge into")
    is_tied = part_head(attached.model.get_base_model())
    with as_method_error(f"{attached.spec.label} cannot be merged", "export the adapter instead"):
        facts = _merge_layers(attached.model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*already merged.*")
            merged = attached.model.merge_and_unload()
    notes = (UNTIED,) if is_tied and tie_or_untie(merged) else ()
    return _clear_peft_attributes(merged), {**facts, "notes": notes}


def _merge_layers(wrapped: Any) -> dict[str, Any]:
    """Merges additive layers one at a time and sums their rounding errors."""
    import torch
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [m for m in wrapped.modules() if isinstance(m, LoraLayer) and ADAPTER_NAME in m.lora_A]
    error, size = 0.0, 0.0
    additive = bool(layers) and not any(layer.lora_variant for layer in layers)
    for layer in layers if additive else ():
        with torch.no_grad():
            weight = layer.get_base_layer().weight
            update = layer.get_delta_weight(ADAPTER_NAME).float()
            exact = weight.float() + update
            layer.merge()
            error += float((layer.get_base_layer().weight.float() - exact).double().square().sum())
            size += float(update.double().square().sum())
    share = (error / size) ** 0.5 if size else (0.0 if additive else None)
    stored = stored_as(p for n, p in wrapped.get_base_model().named_parameters() if n.endswith(".base_layer.weight"))
    return {"matrices": len(layers), "stored_as": stored, "rounding_share": share}
