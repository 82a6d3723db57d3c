"""A model folder laid out as a Hub repository, checked and fingerprinted by its headers: no weights are loaded.

Called by `models.source`. Safetensors format: 8 bytes little-endian header length, JSON header, tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models.ladder import LADDER_FILE, Rung, read_rungs

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
BIN_HINT = (
    "write `model: {name: ..., weights: bin}` in the recipe: pytorch_model*.bin are then read as tensors alone and converted "
    "once; or convert them yourself with save_pretrained"
)
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20  # files of up to 64 MiB are hashed whole


def looks_local(name: str) -> bool:
    """Whether `name` is meant as a path: it exists, or is written as one."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).expanduser().exists()


def find_rung_folder(root: Path, revision: str | None) -> tuple[Path, Rung | None]:
    """The folder with the config.json to use, and its rung where `root` is a ladder: a folder or a file for each rung."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ModelError(
            f"the model folder {root} {what}",
            "give a folder with config.json and *.safetensors, or a Hub id such as openai-community/gpt2",
        )
    if revision is None:
        return root, None
    steps = {rung.name: rung for rung in read_rungs(root / LADDER_FILE)} if (root / LADDER_FILE).is_file() else {}
    if revision in steps and (root / f"{revision}.safetensors").is_file():
        read_header(root / f"{revision}.safetensors")
        return root, steps[revision]
    if not (root / revision).is_dir():
        there = [name for name in steps if (root / name).is_dir() or (root / f"{name}.safetensors").is_file()]
        raise ModelError(
            f"{root} has no rung {revision!r}: there is no folder of that name in it",
            f"rungs: {', '.join(there)}" if there else "remove the revision: this folder holds one model",
        )
    return root / revision, steps.get(revision)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict. Raises ModelError if it is missing, not JSON, or names no model type."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no config.json", _hint(folder))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", "download or save the model again") from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ModelError(f"{path} names no model_type", "save the model with transformers' save_pretrained")
    return config


def _hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "this is an adapter: give its base as the model, and it as `method: saved` or with --adapter"
    if (folder / LADDER_FILE).is_file():
        return "this is a ladder: name one of its rungs as the revision"
    if any(folder.glob("*.gguf")):
        return "GGUF files cannot be trained here: give the original repository with *.safetensors"
    return "a model folder holds config.json and *.safetensors, as transformers' save_pretrained writes them"


def tokenizer_folder(place: Path, root: Path) -> Path:
    """The folder with the tokenizer: the rung's own, else its ladder's."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    return next((f for f in (place, root) if any((f / name).is_file() for name in names)), place)


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files of a model, each whole by its header.

    Raises ModelError for pickled weights, a missing shard, or a file shorter or longer than its header says.
    """
    files = _weight_files(folder)
    for file in files:
        read_header(file)
    return files


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} is not an index of shards: {error}", "download it again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:3])}",
            "download the missing files, then run the same command again",
        )
    return [folder / name for name in names]


def _no_weights(folder: Path) -> ModelError:
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        return ModelError(
            f"{folder} holds pickled weights only ({', '.join(pickled[:3])}); pickles can run code and are not opened unasked",
            BIN_HINT,
        )
    if any(folder.glob("*.gguf")):
        return ModelError(f"{folder} holds GGUF weights only", "give the original repository with *.safetensors")
    return ModelError(f"{folder} holds no {SINGLE} or {INDEX}", "copy the weights beside config.json")


def read_header(path: Path) -> dict[str, Any]:
    """Names, types and places of a safetensors file's tensors. Raises ModelError if the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(path, f"it has {size} bytes, its header alone asks for {8 + length}")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"its header is not JSON of tensors ({error})") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _damaged(path, f"it has {size} bytes, its header asks for {expected}")
    return header


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is truncated or damaged: {what}", "copy or download the file again")


def link_as_model_folder(folder: Path, weights: Path, fingerprint: str) -> Path:
    """A folder in the cache in which `weights`, one file of a ladder, is called as transformers expects it."""
    place = assets.cache_folder() / "rungs" / fingerprint[:32]
    place.mkdir(parents=True, exist_ok=True)
    for source, name in ((folder / "config.json", "config.json"), (weights, SINGLE)):
        temporary = place / f".{name}.{os.getpid()}"
        try:
            temporary.symlink_to(source.absolute())
        except OSError:  # no links on this file system, or not for this user
            shutil.copyfile(source, temporary)
        os.replace(temporary, place / name)
    return place


def stored_dtype(files: Sequence[Path]) -> str:
    """The type that most numbers in the files are stored in, as torch spells it."""
    sizes: Counter[str] = Counter()
    for file in files:
        for name, entry in read_header(file).items():
            if name != "__metadata__":
                sizes[entry["dtype"]] += entry["data_offsets"][1] - entry["data_offsets"][0]
    return _DTYPES.get(sizes.most_common(1)[0][0], "float32") if sizes else "float32"


def fingerprint(config: Mapping[str, Any], files: Sequence[Path]) -> str:
    """sha256 over the config and, per file, its header (of safetensors) and evenly spaced samples of its bytes (all of
    a small file).

    Paths, and the transformers version that wrote the config, do not enter.
    """
    kept = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())
    for file in files:
        if file.suffix == ".safetensors":
            digest.update(json.dumps(read_header(file), sort_keys=True).encode())
        _sample(file, digest)
    return digest.hexdigest()


def _sample(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    gap = max(_SAMPLE_BYTES, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
    with path.open("rb") as stream:
        for start in range(0, size, gap):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE_BYTES))


def saved_fingerprint(folder: Path) -> str:
    """SHA-256 of a saved adapter's or model's files; weights are sampled, as those of a local base are."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*config.json"))}
    return fingerprint(texts, sorted(folder.glob("*.safetensors")))
