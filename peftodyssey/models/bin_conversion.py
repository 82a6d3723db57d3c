"""Weights that exist only as pickles (`pytorch_model.bin`), converted once to safetensors in the user's cache.

A pickle can run code when it is opened. Here it is opened only where a recipe says `weights: bin`, and with
`torch.load(weights_only=True)`, which builds tensors and nothing else.
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
from peftodyssey.models.weight_files import SAFETENSORS, list_shards

if TYPE_CHECKING:
    from torch import Tensor

BIN_PATTERNS = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]
DONE = "converted.json"  # written last: the copy is complete
CONVERSION_NOTE = "pickled .bin files, read with weights_only=True and converted to safetensors"


def bin_files(folder: Path) -> list[Path]:
    """The pickled weight files of a model; empty where there are none. Raises ModelError where a shard is missing."""
    return list_shards(folder, "pytorch_model.bin", "pytorch_model.bin.index.json")


def converted_folder(fingerprint: str) -> Path:
    """The folder for the converted copy of the weights with this fingerprint."""
    return assets.cache_folder() / "converted" / fingerprint[:32]


def convert_to_safetensors(folder: Path, fingerprint: str) -> Path:
    """A folder with the weights of `folder` as safetensors and its config.json, made at the first call.

    Raises ModelError where a file holds anything but tensors or is damaged, StoreError where the cache refuses.
    """
    target = converted_folder(fingerprint)
    if (target / DONE).is_file():
        return target
    files = bin_files(folder)
    assert files, "resolve has found pickled weights here"
    count = len(files)
    shards = (
        [SAFETENSORS[0]] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    )
    try:
        target.mkdir(parents=True, exist_ok=True)
        sizes = {shard: _convert(file, target / shard) for file, shard in zip(files, shards, strict=True)}
        if count > 1:
            weight_map = {tensor: shard for shard in shards for tensor in sizes[shard]}
            total = sum(sum(sizes[shard].values()) for shard in shards)
            write_json(target / SAFETENSORS[1], {"metadata": {"total_size": total}, "weight_map": weight_map})
        shutil.copyfile(folder / "config.json", target / "config.json")
        write_json(target / DONE, {"from": [str(file) for file in files], "how": CONVERSION_NOTE})
    except OSError as error:
        raise StoreError(
            f"cannot write the converted weights to {target}: {error.strerror or error}",
            "free the disk, or set PEFTODYSSEY_CACHE to a folder with room",
        ) from error
    return target


def _convert(source: Path, target: Path) -> dict[str, int]:
    """Writes the tensors of one file, each in memory of its own; bytes of each tensor."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in _load_tensors(source).items()}
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, target)
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _load_tensors(file: Path) -> dict[str, Tensor]:
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


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file through a temporary one, so that it is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)
