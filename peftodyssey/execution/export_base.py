"""The base of an exported adapter for plain transformers: by its name, from its folder, or written beside it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from peftodyssey import assets
from peftodyssey.execution.merge import save_model
from peftodyssey.models.ladder_file import LADDER_FILE
from peftodyssey.models.load import load
from peftodyssey.models.local_model import ADAPTER_FILE
from peftodyssey.models.source import ModelSource
from peftodyssey.models.stored_tensors import is_text, key_mapping, tensors
from peftodyssey.models.weight_files import check_weights

BESIDE = "base"  # folder
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class PlainBase:
    """What `from_pretrained` takes; `name` is None where the base lies beside the adapter, in `base/`."""

    name: str | None
    revision: str | None
    tokenizer: str | None  # where it does not lie with the base


def plain_base(source: ModelSource, folder: Path) -> PlainBase:
    """How the base is loaded; it is written to `folder`/base where plain transformers cannot read it where it is."""
    if source.kind == "hub":
        return PlainBase(source.name, source.revision, None)
    if source.kind == "local" and _is_plain(source):
        elsewhere = source.tokenizer_folder if source.tokenizer_folder != source.folder else None
        return PlainBase(_absolute(source.folder), None, _absolute(elsewhere))
    beside = folder / BESIDE
    if source.kind == "bundled":
        unpacked = assets.unpack_model(source.name.removeprefix("bundled/"), source.revision)
        shutil.copytree(unpacked, beside, ignore=shutil.ignore_patterns(LADDER_FILE))
    else:
        save_model(load(source, precision=PRECISIONS.get(source.default_dtype, "fp32")), source, beside)
        copy_tokenizer(source, beside)
    return PlainBase(None, None, None)


def _is_plain(source: ModelSource) -> bool:
    """Whether a local folder holds the base and nothing else, under the names of its class, in safetensors."""
    if source.folder is None or source.pickled or source.weight_file is not None:
        return False
    headers = tensors(check_weights(source.folder))
    return not key_mapping(headers, is_text(source.config))[0] and not (source.folder / ADAPTER_FILE).is_file()


def _absolute(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.absolute())


def copy_tokenizer(source: ModelSource, folder: Path) -> None:
    """The tokenizer's files of the base, byte for byte."""
    for name in TOKENIZER_FILES if source.tokenizer_folder else ():
        if (file := Path(str(source.tokenizer_folder)) / name).is_file():
            shutil.copyfile(file, folder / name)
