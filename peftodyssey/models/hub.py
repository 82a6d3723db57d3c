"""Models on the Hugging Face Hub: config and tokenizer when a model is named, weights when it is loaded.

Called by `models.source`. Downloads land in the user's Hub cache; whatever is there already is used without a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from peftodyssey.errors import ModelError
from peftodyssey.models.bin_conversion import PATTERNS

SMALL = [
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
]
BIN_HINT = "write `model: {name: ..., weights: bin}` in the recipe: they are read as tensors alone and converted once"
WEIGHTS = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
T = TypeVar("T")


@dataclass(frozen=True)
class HubModel:
    """One commit of a Hub repository, its small files present locally."""

    folder: Path  # snapshot folder in the cache
    commit: str  # sha of the commit
    weight_bytes: int  # of all weight files; 0 where offline and not downloaded
    pickled: bool = False  # there are no safetensors, and pickles were allowed


def find_commit(name: str, revision: str | None, weights: str = "safetensors") -> HubModel:
    """The commit that `revision` (branch, tag or sha; None: the default branch) means now, small files downloaded.

    `weights: bin` takes pickled weights where a commit has no safetensors. Raises ModelError: no such repository or
    revision, gated, offline and not cached, no such weights.
    """
    place = download_config(name, revision)
    commit = place.name
    files = _listing(name, commit)
    pickled = bool(files) and not any(file.endswith(".safetensors") for file in files)
    if pickled and (weights != "bin" or not any(file.endswith(".bin") for file in files)):
        raise ModelError(
            f"{name} has no safetensors weights; pickles can run code and are not opened unasked",
            f"look for a converted revision (refs/pr/...) of the repository, or {BIN_HINT}",
        )
    ending = ".bin" if pickled else ".safetensors"
    hub_call(name, commit, lambda: _snapshot(name, commit, SMALL))
    return HubModel(place, commit, sum(size for file, size in files.items() if file.endswith(ending)), pickled)


def download_config(name: str, revision: str | None) -> Path:
    """The snapshot folder of a revision, with its config.json in it."""
    from huggingface_hub import hf_hub_download

    return Path(hub_call(name, revision, lambda: hf_hub_download(name, "config.json", revision=revision))).parent


def download_weights(name: str, commit: str, pickled: bool = False) -> Path:
    """Snapshot folder of `commit` with all weights in it, checked to be whole; downloads what is missing."""
    from peftodyssey.models.local_model import check_weights

    if pickled:
        return Path(hub_call(name, commit, lambda: _snapshot(name, commit, [*SMALL, *PATTERNS])))
    folder = Path(hub_call(name, commit, lambda: _snapshot(name, commit, SMALL + WEIGHTS)))
    check_weights(folder)
    return folder


def _snapshot(name: str, commit: str, patterns: list[str]) -> str:
    """The snapshot folder of a commit, what matches `patterns` downloaded; without a connection what the cache holds.

    huggingface_hub 1 lists the files of a commit on the Hub first, whatever is cached.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return str(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except errors.HfHubHTTPError:  # the Hub answered
        raise
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError.__bases__[0], ConnectionError):
        return str(snapshot_download(name, revision=commit, allow_patterns=patterns, local_files_only=True))


def _listing(name: str, commit: str) -> dict[str, int]:
    """Bytes of every file of a commit: from the Hub, else (offline) of the files in the cache that are weights."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(name, revision=commit, files_metadata=True, timeout=10)
        return {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    except (OfflineModeIsEnabled, *HfHubHTTPError.__bases__):
        config = try_to_load_from_cache(name, "config.json", revision=commit)
        assert isinstance(config, str), "config.json was downloaded before this is asked"
        there = Path(config).parent
        return {
            path.name: path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in there.glob(pattern)
        }


def hub_call(name: str, revision: str | None, question: Callable[[], T]) -> T:
    """The answer of the Hub, its many errors turned into sentences."""
    from huggingface_hub import errors

    try:
        return question()
    except errors.HFValidationError as error:
        raise ModelError(
            f"{name!r} is neither a folder here nor a possible Hub id",
            "write bundled/<model>, random/<shape>, an existing folder, or owner/model",
        ) from error
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} is gated", "accept its terms on its Hub page, then `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{name} has no revision {revision!r} on the Hub", "see its branches and tags on its Hub page"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a folder here nor a repository on the Hub that you may read",
            "check the spelling; for a private one `hf auth login`; for a folder write ./" + name,
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(name, revision) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{name} has no config.json on the Hub",
            "give a repository of a transformers model, not of an adapter or GGUF",
        ) from error
    # HfHubHTTPError's first base is the HTTPError of the client that huggingface_hub uses (httpx, later httpx2).
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError.__bases__[0], ConnectionError) as error:
        raise _unreachable(name, revision) from error


def _unreachable(name: str, revision: str | None) -> ModelError:
    at = f" at {revision}" if revision else ""
    return ModelError(
        f"{name}{at} is not in the local Hub cache and the Hub cannot be reached",
        "connect once (unset HF_HUB_OFFLINE), or give a local folder; bundled/odyssey-3m needs no network",
    )
