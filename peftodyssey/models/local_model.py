"""A model folder laid out like a Hub repository: its config, its rungs, its tokenizer."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models.ladder_file import LADDER_FILE, Rung, read_rungs
from peftodyssey.models.rung_names import parse_rung
from peftodyssey.models.weight_files import SAFETENSORS, check_weights, read_header
from peftodyssey.untrusted import limits

CONFIG_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")


def looks_local(name: str) -> bool:
    """Whether `name` is a path: it exists, or is written as one."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).expanduser().exists()


def find_rung_folder(root: Path, revision: str | None) -> tuple[Path, Rung | None]:
    """The folder with the config.json to use, and its rung where `root` is a ladder.

    A ladder has a subfolder or a file `<rung>.safetensors` for each rung, and names them in ladder.json or by steps.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ModelError(
            f"the model folder {root} {what}",
            "give a folder with config.json and *.safetensors, or a Hub id such as openai-community/gpt2",
        )
    if revision is None:
        return root, None
    has_file = (root / LADDER_FILE).is_file()
    rungs = {rung.name: rung for rung in read_rungs(root / LADDER_FILE)} if has_file else rung_folders(root)
    if revision in rungs and (root / f"{revision}.safetensors").is_file():
        read_header(root / f"{revision}.safetensors")
        return root, rungs[revision]
    if not (root / revision).is_dir():
        present = [name for name in rungs if (root / name).is_dir() or (root / f"{name}.safetensors").is_file()]
        raise ModelError(
            f"{root} has no rung {revision!r}: there is no folder of that name in it",
            f"rungs: {', '.join(present)}" if present else "remove the revision: this folder holds one model",
        )
    return root / revision, rungs.get(revision)


def rung_folders(root: Path) -> dict[str, Rung]:
    """{folder: rung} of the folders below `root` whose names state a step, such as `step1000` or `checkpoint-500`.

    Tokens are those of the name, else those that Trainer's state in the folder counts.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    parsed = {path.name: parse_rung(root.name, path.name) for path in folders}
    return {
        name: rung if rung.tokens is not None else dataclasses.replace(rung, tokens=_tokens_seen(root / name))
        for name, rung in parsed.items()
        if rung is not None
    }


def _tokens_seen(folder: Path) -> int | None:
    """The tokens that transformers' Trainer counted (`num_input_tokens_seen`); None where it did not count them."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["num_input_tokens_seen"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict. Raises ModelError if it is missing, not JSON, or names no model type."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(f"{folder} holds no config.json", _hint(folder))
    try:
        config = limits.parse_json(limits.read_bytes(path, limits.CONFIG_BYTES), _special_float)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", "download or save the model again") from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ModelError(f"{path} names no model_type", "save the model with transformers' save_pretrained")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ATTENTION_KEYS:
            if "/" in str(part.get(key, "")):  # transformers would fetch such a kernel and run it
                raise ModelError(
                    f"{path} has {key}: {part[key]!r:.80}, code of a repository, which is not run here",
                    f"remove {key} from config.json",
                )
    return config


def _hint(folder: Path) -> str:
    if (folder / ADAPTER_FILE).is_file():
        return "this is an adapter: give its base as the model, and it as `method: saved` or with --adapter"
    if (folder / LADDER_FILE).is_file():
        return "this is a ladder: name one of its rungs as the revision"
    if any(folder.glob("*.gguf")):
        return "GGUF files cannot be trained here: give the original repository with *.safetensors"
    return "a model folder holds config.json and *.safetensors, as transformers' save_pretrained writes them"


def find_tokenizer_folder(folder: Path, root: Path) -> Path:
    """The folder with the tokenizer: the rung's own, else its ladder's."""
    return next((f for f in (folder, root) if any((f / name).is_file() for name in TOKENIZER_FILES)), folder)


def link_as_model_folder(folder: Path, weights: Path, fingerprint: str) -> Path:
    """A folder in the cache in which `weights`, one file of a ladder, has the name that transformers expects."""
    return _link({folder / CONFIG_FILE: CONFIG_FILE, weights: SAFETENSORS[0]}, fingerprint)


def link_without_adapter(folder: Path, fingerprint: str) -> Path:
    """A folder in the cache with config and weights of `folder` and without the adapter beside them."""
    names = [name for name in (CONFIG_FILE, SAFETENSORS[1]) if (folder / name).is_file()]
    files = {path: path.name for path in (*(folder / name for name in names), *check_weights(folder))}
    return _link(files, fingerprint)


def _link(files: Mapping[Path, str], fingerprint: str) -> Path:
    """A folder in the cache that holds `files`, each under its new name, as links where the file system has them."""
    target = assets.cache_folder() / "rungs" / fingerprint[:32]
    target.mkdir(parents=True, exist_ok=True)
    for source, name in files.items():
        temporary = target / f".{name}.{os.getpid()}"
        try:
            temporary.symlink_to(source.absolute())
        except OSError:  # no links on this file system, or not for this user
            shutil.copyfile(source, temporary)
        os.replace(temporary, target / name)
    return target


def _special_float(value: dict[str, Any]) -> Any:
    """transformers writes infinity and NaN as `{"__float__": "Infinity"}`, because JSON has no number for them."""
    special = value.get("__float__") if set(value) == {"__float__"} else None
    return float(special) if special in ("Infinity", "-Infinity", "NaN") else value
