"""Weights that exist only as pickles (`pytorch_model.bin`), read as tensors alone and converted once. Called by
`models.source`.

A pickle can run code when it is opened. Here it is opened only where a recipe says `weights: bin`, and by torch's
reader that builds tensors and nothing else (`weights_only=True`). The copy as safetensors lies in the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey import assets
from peftodyssey.errors import ModelError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

PATTERNS = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
DONE = "converted.json"  # written last: the copy is whole
CONVERSION_NOTE = "pickled .bin files, read as tensors alone (weights_only) and converted to safetensors"


def bin_files(folder: Path) -> list[Path]:
    """The pickled weight files of a model; empty where there are none. Raises ModelError where a shard is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} is not an index of shards: {error}", "download it again") from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:3])}", "download them"
        )
    return [folder / name for name in names]


def converted_folder(fingerprint: str) -> Path:
    """Where the converted copy of the weights with this fingerprint lies."""
    return assets.cache_folder() / "converted" / fingerprint[:32]


def convert_to_safetensors(folder: Path, fingerprint: str) -> Path:
    """A folder with the weights of `folder` as safetensors and its config.json, made at the first call.

    Raises ModelError where a file holds anything but tensors or is damaged, StoreError where the cache refuses.
    """
    target = converted_folder(fingerprint)
    if (target / DONE).is_file():
        return target
    files = bin_files(folder)
    assert files, "resolve found pickled weights here"
    try:
        target.mkdir(parents=True, exist_ok=True)
        written = {file.name: _convert(file, target / _name(place, len(files))) for place, file in enumerate(files)}
        _write_index(target, written, len(files))
        shutil.copyfile(folder / "config.json", target / "config.json")
        _write(target / DONE, {"from": [str(file) for file in files], "how": CONVERSION_NOTE})
    except OSError as error:
        raise StoreError(
            f"cannot write the converted weights to {target}: {error.strerror or error}",
            "free the disk, or set PEFTODYSSEY_CACHE to a folder with room",
        ) from error
    return target


def _name(place: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{place + 1:05d}-of-{count:05d}.safetensors"


def _convert(source: Path, target: Path) -> tuple[str, dict[str, int]]:
    """Writes one file's tensors, each with memory of its own; (name, bytes of each)."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in _tensors(source).items()}
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, target)
    return target.name, {name: tensor.nbytes for name, tensor in tensors.items()}


def _tensors(file: Path) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{file} holds more than tensors, or is damaged: {str(error).splitlines()[0]}",
            "look for a converted revision (refs/pr/...) of the repository; code in a pickle is never run",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{file} is not a mapping of names to tensors", "give a repository of a transformers model")
    return state


def _write_index(target: Path, written: dict[str, tuple[str, dict[str, int]]], count: int) -> None:
    if count == 1:
        return
    weight_map = {tensor: name for name, sizes in written.values() for tensor in sizes}
    total = sum(sum(sizes.values()) for _, sizes in written.values())
    _write(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)
