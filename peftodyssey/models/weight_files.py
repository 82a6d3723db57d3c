"""The weight files of a model folder: which they are, whether each is complete, and their fingerprint.

Only headers and samples are read, never whole tensors. A safetensors file is 8 bytes (little-endian header length), a
JSON header, then the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.errors import MissingWeights, ModelError
from peftodyssey.untrusted import safetensors_header

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")  # one file, or the index of shards
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
BIN_HINT = (
    "write `model: {name: ..., weights: bin}` in the recipe: pytorch_model*.bin are then read as tensors only "
    "(weights_only) and converted once; or convert them yourself with save_pretrained"
)
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
NUM_SAMPLES, SAMPLE_BYTES = 64, 1 << 20  # files of up to 64 MiB are hashed completely


def list_shards(folder: Path, single: str, index: str) -> list[Path]:
    """The file `single`, else the shards that `index` names; empty if there is neither. Raises ModelError for a
    missing shard.
    """
    if (folder / single).is_file():
        return [folder / single]
    if not (folder / index).is_file():
        return []
    try:
        names = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / index} is not an index of shards: {error}", "download it again") from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise MissingWeights(
            f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:3])}",
            "download the missing files, then run the same command again",
        )
    return [folder / name for name in names]


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, each as long as its header says.

    Raises ModelError for pickled weights, a missing shard, and a file that is shorter or longer.
    """
    files = list_shards(folder, *SAFETENSORS)
    if not files:
        raise _no_weights(folder)
    for file in files:
        read_header(file)
    return files


def notes(folder: Path) -> list[str]:
    """A note where a folder holds both one file of weights and an index of shards, perhaps of two trainings."""
    single, index = SAFETENSORS
    if not ((folder / single).is_file() and (folder / index).is_file()):
        return []
    return [f"{folder} holds {single} and {index}: the first is read, as transformers does, and the shards are not"]


def _no_weights(folder: Path) -> ModelError:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        return ModelError(
            f"{folder} holds pickled weights only ({', '.join(pickled[:3])}); pickles can run code and are not opened "
            "by default",
            BIN_HINT,
        )
    if any(folder.glob("*.gguf")):
        return ModelError(f"{folder} holds GGUF weights only", "give the original repository with *.safetensors")
    return MissingWeights(f"{folder} holds no {' or '.join(SAFETENSORS)}", "copy the weights beside config.json")


def read_header(path: Path) -> dict[str, Any]:
    """{tensor: {dtype, shape, data_offsets}} of a safetensors file, and its `__metadata__`.

    Raises ModelError if the file's length is not what the header says.
    """
    try:
        return safetensors_header.read_header(path)[0]
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is truncated or damaged: {what}", "copy or download the file again")


def stored_dtype(files: Sequence[Path]) -> str:
    """The dtype that most bytes of the files are stored in, as torch spells it."""
    sizes: Counter[str] = Counter()
    for file in files:
        for name, entry in read_header(file).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                sizes[entry["dtype"]] += end - begin
    return DTYPES.get(sizes.most_common(1)[0][0], "float32") if sizes else "float32"


def fingerprint(config: Mapping[str, Any], files: Sequence[Path]) -> str:
    """SHA-256 of the config and, per file, of its header (safetensors) and evenly spaced samples of its bytes.

    Paths and the transformers version that wrote the config do not count.
    """
    hashed = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode())
    for file in files:
        if file.suffix == ".safetensors":
            digest.update(json.dumps(read_header(file), sort_keys=True).encode())
        _hash_samples(file, digest)
    return digest.hexdigest()


def sampled_sha256(path: Path) -> str:
    """SHA-256 of a file's size and of evenly spaced samples of its bytes; of all of them up to 64 MiB."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    _hash_samples(path, digest)
    return digest.hexdigest()


def _hash_samples(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    gap = max(SAMPLE_BYTES, (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
    with path.open("rb") as stream:
        for start in range(0, size, gap):
            stream.seek(start)
            digest.update(stream.read(SAMPLE_BYTES))


def saved_fingerprint(folder: Path) -> str:
    """Fingerprint of a saved adapter or model folder: its config files and its weights."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*config.json"))}
    return fingerprint(texts, sorted(folder.glob("*.safetensors")))
