"""An adapter's folder, read without torch: its config, its tensors, and what must be said of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.errors import MethodError
from peftodyssey.untrusted import limits
from peftodyssey.untrusted.safetensors_header import METADATA, read_header

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MLX_WEIGHTS = "adapters.safetensors"
OTHER_WEIGHTS = {  # file -> what it is and what to do
    "adapter_model.bin": ("pickled weights, which can run code", "save it with safe_serialization=True"),
    "adapters.npz": ("weights of an old mlx version", "save it again with a newer mlx-lm (adapters.safetensors)"),
    "adapter_0.pt": (
        "pickled weights of torchtune",
        "set the checkpointer's safe_serialization, which writes adapter_model.safetensors",
    ),
}
LORA_B = re.compile(r"\.lora_(B|b|embedding_B)(\.|$)")
LORA = re.compile(r"\.lora_")
QUANTISED_NAME = re.compile(r"(bnb|[-_](4|8)bit|gptq|awq|fp8|int4|int8|nf4)(?![a-z0-9])", re.IGNORECASE)
MAX_PATTERNS = 3


@dataclass(frozen=True)
class AdapterFiles:
    """The config of an adapter and the tensors of its weight file."""

    folder: Path
    config: dict[str, Any]
    weights: Path
    tensors: dict[str, dict[str, Any]]  # name -> dtype, shape, data_offsets
    data_start: int  # where the tensors begin in the file, in bytes

    @property
    def is_mlx(self) -> bool:
        """Whether mlx-lm wrote it."""
        return self.weights.name == MLX_WEIGHTS

    @property
    def base_name(self) -> str | None:
        """The base that its config names."""
        name = self.config.get("model" if self.is_mlx else "base_model_name_or_path")
        return name if isinstance(name, str) and name else None


def read_adapter(folder: Path) -> AdapterFiles:
    """The files of an adapter. Raises MethodError where there is none, and for pickled, empty or damaged weights."""
    folder = Path(folder)
    config = _read_config(folder)
    weights = next((folder / name for name in (WEIGHTS, MLX_WEIGHTS) if (folder / name).is_file()), None)
    if weights is None:
        raise _no_weights(folder)
    try:
        header, begin = read_header(weights)
    except ValueError as error:
        raise MethodError(f"{weights} is truncated or damaged: {error}", "copy it again") from error
    tensors = {name: dict(entry) for name, entry in header.items() if name != METADATA}
    if empty := [name for name, entry in tensors.items() if 0 in entry["shape"]]:
        raise MethodError(
            f"{len(empty)} of {len(tensors)} tensors in {weights} are empty, first {empty[0]}: sharded training "
            "(DeepSpeed ZeRO-3, FSDP) saved them without gathering them",
            "save again with stage3_gather_16bit_weights_on_model_save, or with a full state dict under FSDP",
        )
    return AdapterFiles(folder, config, weights, tensors, begin)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
        raise MethodError(
            f"{folder} has no {CONFIG}",
            f"give one of the adapters in it: {', '.join(below[:5])}" if below else "give the folder that holds it",
        )
    try:
        config = limits.parse_json(limits.read_bytes(folder / CONFIG, limits.CONFIG_BYTES))
    except ValueError as error:
        raise MethodError(f"{folder / CONFIG} is not JSON: {error}", "copy or save the adapter again") from error
    if not isinstance(config, dict):
        raise MethodError(f"{folder / CONFIG} is not a mapping", "copy or save the adapter again")
    return config


def _no_weights(folder: Path) -> MethodError:
    for name, (what, fix) in OTHER_WEIGHTS.items():
        if (folder / name).exists():
            return MethodError(f"{folder} has no {WEIGHTS}: {name} holds {what}, and is not read", fix)
    return MethodError(f"{folder} has no {WEIGHTS}", "copy the weights beside adapter_config.json, or save it again")


def notes(adapter: AdapterFiles) -> list[str]:
    """What must be said of an adapter whatever is done with it: that it changes nothing, what differs by module."""
    said = []
    if changes_nothing(adapter):
        said.append("changes nothing: all of lora_B is 0")
    for key, what in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        pattern = adapter.config.get(key)
        if isinstance(pattern, Mapping) and pattern:
            common = adapter.config.get("r" if what == "rank" else "lora_alpha")
            some = ", ".join(f"{value} for {name}" for name, value in list(pattern.items())[:MAX_PATTERNS])
            more = f" and {len(pattern) - MAX_PATTERNS} more" if len(pattern) > MAX_PATTERNS else ""
            said.append(f"{what} {common}, but {some}{more}")
    if adapter.base_name and QUANTISED_NAME.search(adapter.base_name):
        said.append(f"was trained on {adapter.base_name}, a quantised base: on another storage its losses differ")
    return said


def other_base_note(adapter: AdapterFiles, base: str) -> list[str]:
    """A note where the adapter's config names another base than `base`: models of one shape take each other's adapters.

    The last parts of the names are compared, without what says how a base is stored.
    """
    if adapter.base_name is None:
        return []
    made_for, here = (
        QUANTISED_NAME.sub("", name.rstrip("/").rsplit("/", 1)[-1]).strip("-_").lower()
        for name in (adapter.base_name, base)
    )
    if made_for in here or here in made_for:
        return []
    return [f"its config names {adapter.base_name} as its base; here it is put on {base}: are these the same weights?"]


def changes_nothing(adapter: AdapterFiles) -> bool:
    """Whether every trained tensor is a LoRA matrix and every lora_B is 0, so that nothing is added to the base."""
    lora_b = [name for name in adapter.tensors if LORA_B.search(name)]
    if not lora_b or not all(LORA.search(name) for name in adapter.tensors):
        return False
    if any("magnitude_vector" in name for name in adapter.tensors) or adapter.config.get("fine_tune_type") == "dora":
        return False  # DoRA's magnitudes scale the base's weights
    if str(adapter.config.get("init_lora_weights", "")).startswith(("pissa", "olora", "corda", "loftq")):
        return False  # the base is not the one that was loaded
    return all(_is_zero(adapter, adapter.tensors[name]) for name in lora_b)


def _is_zero(adapter: AdapterFiles, entry: Mapping[str, Any]) -> bool:
    """Whether all numbers of a tensor are 0 or -0, from its bytes."""
    begin, end = entry["data_offsets"]
    width = {"F64": 8, "F32": 4}.get(entry["dtype"], 2)
    with adapter.weights.open("rb") as stream:
        stream.seek(adapter.data_start + begin)
        numbers = stream.read(end - begin)
    signs = numbers[width - 1 :: width]  # little-endian: the sign is the highest bit of the last byte
    rest = (numbers[at::width] for at in range(width - 1))
    return not signs.translate(None, b"\0\x80") and not any(part.translate(None, b"\0") for part in rest)
