"""Adapters as other tools lay them out, written as PEFT reads them: a copy in the cache, made at the first use.

MLX names and transposes its matrices otherwise; compiled and sharded training leaves prefixes in the names; a saved
state dict has the adapter's name in them; the text model of a vision-language model has a prefix of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey import assets
from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter_files import CONFIG, WEIGHTS, AdapterFiles, read_adapter

if TYPE_CHECKING:
    import torch

PEFT_PREFIX = "base_model.model."
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
NAMED = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.\w+\.(weight|bias)$")  # with the adapter's name
NAMED_EMBEDDING = re.compile(r"\.(lora_embedding_[AB])\.\w+$")
MODULE = re.compile(r"^(?P<module>.+?)\.(lora_\w+|modules_to_save|token_adapter)(\.|$)")

VARIANTS: tuple[tuple[str, Callable[[str], str]], ...] = (  # other names of the modules of a text model
    (
        "`language_model.` was taken out of the names of tensors",
        lambda name: re.sub(r"^(model\.)?language_model\.(model\.)?", "model.", name),
    ),
    (
        "`language_model.` was put into the names of tensors",
        lambda name: re.sub(r"^model\.", "model.language_model.", name),
    ),
    ("`model.` was put before the names of tensors", lambda name: f"model.{name}"),
)


def as_peft_reads_it(folder: Path, modules: Collection[str]) -> tuple[Path, list[str]]:
    """(the folder itself, or one in the cache with the same adapter laid out as PEFT reads it; notes about changes).

    `modules`: full names of the base's modules. Raises MethodError for what cannot be read or laid out.
    """
    adapter = read_adapter(folder)
    if adapter.is_mlx:
        config, renamed, notes = _from_mlx(adapter)
    else:
        _check_config(adapter)
        renamed, notes = _renamed(adapter, modules)
        config = adapter.config
        if renamed == {name: name for name in adapter.tensors}:
            return folder, notes
        if adapter.config.get("peft_type", "LORA") == "LORA":
            targets = sorted({module for name in renamed.values() if "lora_" in name and (module := _module(name))})
            config = {**config, "target_modules": targets}
    return _written(adapter, config, renamed), notes


def _check_config(adapter: AdapterFiles) -> None:
    """Raises MethodError for a field that this PEFT does not know and would ignore though it is set."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name = str(adapter.config.get("peft_type", ""))
    if name not in PeftType.__members__:
        raise MethodError(
            f"{adapter.folder / CONFIG} has peft_type: {adapter.config.get('peft_type')!r}, which PEFT does not know",
            f"types: {', '.join(sorted(PeftType.__members__))}; or upgrade peft",
        )
    known = set(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)].__dataclass_fields__)
    for key, value in adapter.config.items():
        if key not in known and key != "peft_version" and value not in (None, False, "", [], {}):
            raise MethodError(
                f"{adapter.folder / CONFIG} has {key}: {value!r}, which this version of PEFT would ignore",
                f"upgrade peft; or remove {key} where the adapter is the same without it",
            )


def _renamed(adapter: AdapterFiles, modules: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """({tensor: its name for PEFT}, notes). Copies of the base's weights in a whole state dict are left out."""
    renamed = {name: _plain(name) for name in adapter.tensors if ".original_module." not in name}
    renamed = {name: new for name, new in renamed.items() if not new.endswith(".base_layer.weight")}
    known, adapted = set(modules), {module for new in renamed.values() if (module := _module(new))}
    if adapted and not adapted & known:
        for what, change in VARIANTS:
            if {change(module) for module in adapted} <= known:
                renamed = {name: PEFT_PREFIX + change(new.removeprefix(PEFT_PREFIX)) for name, new in renamed.items()}
                return renamed, [f"{what}, as this base has them"]
    changed = [name for name, new in renamed.items() if name != new]
    if not changed and len(renamed) == len(adapter.tensors):
        return renamed, []
    first = changed[0] if changed else next(name for name in adapter.tensors if name not in renamed)
    return renamed, [f"{max(len(changed), 1)} names of tensors were written as PEFT writes them, the first is {first}"]


def _plain(name: str) -> str:
    """The name of a tensor as PEFT saves it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    name = name.removeprefix("module.")
    while name.startswith(PEFT_PREFIX * 2):
        name = name.removeprefix(PEFT_PREFIX)
    name = name if name.startswith("base_model.") else PEFT_PREFIX + name
    name = name.replace(PEFT_PREFIX + "module.", PEFT_PREFIX)
    name = re.sub(r"\.modules_to_save\.\w+\.", ".", name)
    return NAMED_EMBEDDING.sub(r".\1", NAMED.sub(r".\1.\2", name))


def _module(name: str) -> str | None:
    """The base's module that a plain name is about; None for tensors that are no LoRA matrices."""
    match = MODULE.match(name.removeprefix(PEFT_PREFIX))
    return match["module"] if match else None


def _from_mlx(adapter: AdapterFiles) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """PEFT's config and names for an adapter of mlx-lm: y = Wx + scale * B A x, with A and B stored transposed."""
    kind = adapter.config.get("fine_tune_type", "lora")
    parameters = adapter.config.get("lora_parameters")
    if kind not in ("lora", "dora") or not isinstance(parameters, Mapping):
        raise MethodError(
            f"{adapter.folder} holds a {kind} training of mlx-lm, of which only lora and dora are read",
            "fuse it into the model with `mlx_lm.fuse` and give the result as a model",
        )
    rank, scale = int(parameters["rank"]), float(parameters.get("scale", 20.0))
    if "alpha" in parameters and "num_layers" not in adapter.config:  # versions of 2024 multiplied by alpha / rank
        scale *= float(parameters["alpha"]) / rank
    words = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
    renamed = {}
    for name, entry in adapter.tensors.items():
        module, _, word = name.rpartition(".")
        is_matrix = len(entry["shape"]) == (1 if word == "m" else 2)
        if word not in words or not is_matrix or "embed" in module.rpartition(".")[2]:
            raise MethodError(
                f"{adapter.weights} holds {name} {tuple(entry['shape'])}, which has no counterpart in PEFT's LoRA",
                "fuse it into the model with `mlx_lm.fuse` and give the result as a model",
            )
        renamed[name] = f"{PEFT_PREFIX}{module}.{words[word]}"
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name,
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted({name.rpartition(".")[0] for name in adapter.tensors}),
        "use_dora": kind == "dora",
    }
    return config, renamed, [f"read from mlx-lm's layout: rank {rank}, scale {scale:g} (alpha {scale * rank:g})"]


def _written(adapter: AdapterFiles, config: Mapping[str, Any], renamed: Mapping[str, str]) -> Path:
    """The adapter with other names in a folder of the cache."""
    from safetensors.torch import load_file, save_file

    told = json.dumps([config, renamed], sort_keys=True, default=str).encode()
    digest = hashlib.sha256(told + adapter.weights.read_bytes()).hexdigest()
    target = assets.cache_folder() / "adapters" / digest[:32]
    if (target / CONFIG).is_file():  # written last
        return target
    stored = load_file(adapter.weights)
    tensors = {new: _turned(stored[name], adapter.is_mlx) for name, new in renamed.items()}
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / f".{WEIGHTS}.{os.getpid()}"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, target / WEIGHTS)
    temporary = target / f".{CONFIG}.{os.getpid()}"
    temporary.write_text(json.dumps(config, indent=2), encoding="utf-8")
    os.replace(temporary, target / CONFIG)
    return target


def _turned(tensor: torch.Tensor, is_mlx: bool) -> torch.Tensor:
    return (tensor.T if is_mlx and tensor.ndim == 2 else tensor).contiguous()
