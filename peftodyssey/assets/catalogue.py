"""The bundled models, rungs, corpora and splits, with the SHA-256 and size of each decompressed file."""

from __future__ import annotations

import io
import json
import lzma
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import IO, Any, Literal

CorpusKind = Literal["domain", "general", "pretraining", "task"]
DEFAULT_RUNG = "annealed-1024M"


@cache
def checksums() -> dict[str, Any]:
    """checksums.json: {"models": {name: {"files", "rungs"}}, "corpora": {name: {"kind", "splits"}}}."""
    return json.loads((files(__package__) / "checksums.json").read_text(encoding="utf-8"))


def data_file(*parts: str) -> Traversable:
    """A file of the package's data folder, which may be in a zip file."""
    return files(__package__).joinpath("data", *parts)


def models() -> tuple[str, ...]:
    """Names of the bundled models, usable after `bundled/`."""
    return tuple(checksums()["models"])


def rungs(model: str) -> tuple[str, ...]:
    """Names of the rungs of `model`. Raises KeyError on an unknown model."""
    return tuple(checksums()["models"][model]["rungs"])


def ladder(model: str) -> dict[str, Any]:
    """The ladder.json of `model`: how its rungs were pretrained. Raises KeyError on an unknown model."""
    checksums()["models"][model]
    return json.loads(data_file("models", model, "ladder.json").read_text(encoding="utf-8"))


def model_sha256(model: str, rung: str | None = None) -> str:
    """The SHA-256 of a rung's safetensors file, which need not be unpacked."""
    return checksums()["models"][model]["rungs"][rung or DEFAULT_RUNG]["sha256"]


def model_bytes(model: str, rung: str | None = None) -> int:
    """Size in bytes of a rung's safetensors file, which need not be unpacked."""
    return checksums()["models"][model]["rungs"][rung or DEFAULT_RUNG]["bytes"]


def corpora() -> tuple[str, ...]:
    """Names of the bundled corpora, usable after `bundled/`: domains, general text, pretraining sample and tasks."""
    return tuple(checksums()["corpora"])


def corpus_kind(name: str) -> CorpusKind:
    """The kind of the corpus `name`. Raises KeyError on an unknown name."""
    return checksums()["corpora"][name]["kind"]


def splits(name: str) -> tuple[str, ...]:
    """The splits that the corpus `name` has, of train, valid and test."""
    return tuple(checksums()["corpora"][name]["splits"])


def sha256(name: str, split: str) -> str:
    """The SHA-256 of the decompressed lines of one split."""
    return checksums()["corpora"][name]["splits"][split]["sha256"]


def corpus_bytes(name: str, split: str) -> int:
    """Size in bytes of the decompressed lines of one split."""
    return checksums()["corpora"][name]["splits"][split]["bytes"]


def open_corpus(name: str, split: str) -> IO[bytes]:
    """One split as decompressed JSON lines of {id, text, source}; tasks add prompt, completion and choices.

    Raises KeyError on an unknown name or split, lzma.LZMAError if the installed file is damaged.
    """
    checksums()["corpora"][name]["splits"][split]
    return lzma.LZMAFile(io.BytesIO(data_file("corpora", name, f"{split}.jsonl.xz").read_bytes()))
