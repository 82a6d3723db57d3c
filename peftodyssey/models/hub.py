"""Models on the Hugging Face Hub: config and tokenizer are downloaded when a model is named, weights when it is loaded.

Downloads go to the user's Hub cache; files that are in it are used without a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from peftodyssey.errors import MissingWeights, ModelError
from peftodyssey.models.bin_conversion import BIN_PATTERNS
from peftodyssey.models.weight_files import BIN_HINT, check_weights

SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
]
WEIGHT_PATTERNS = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
T = TypeVar("T")


@dataclass(frozen=True)
class HubModel:
    """One commit of a Hub repository, its small files present locally."""

    folder: Path  # snapshot folder in the cache
    commit: str  # sha of the commit
    weight_bytes: int  # of all weight files; 0 where offline and not downloaded
    pickled: bool = False  # there are no safetensors, and pickles were allowed
    weight_sha256: tuple[tuple[str, str], ...] = ()  # (file, sha256) as the Hub states them; empty while offline


def find_commit(name: str, revision: str | None, weights: str = "safetensors") -> HubModel:
    """The commit that `revision` (branch, tag or sha; None: the default branch) points to; downloads its small files.

    `weights: bin` takes pickled weights where a commit has no safetensors. Raises ModelError: no such repository or
    revision, gated, offline and not cached, no such weights.
    """
    folder = download_config(name, revision)
    commit = folder.name
    sizes, sha256 = _list_files(name, commit)
    if sizes and not any(file.endswith((".safetensors", ".bin")) for file in sizes):
        raise MissingWeights(f"{name} at {revision or 'main'} has no weights on the Hub", "choose another revision")
    pickled = bool(sizes) and not any(file.endswith(".safetensors") for file in sizes)
    if pickled and (weights != "bin" or not any(file.endswith(".bin") for file in sizes)):
        raise ModelError(
            f"{name} has no safetensors weights; pickles can run code and are not opened by default",
            f"look for a converted revision (refs/pr/...) of the repository, or {BIN_HINT}",
        )
    ending = ".bin" if pickled else ".safetensors"
    hub_call(name, commit, lambda: _snapshot(name, commit, SMALL_FILES))
    weight_bytes = sum(size for file, size in sizes.items() if file.endswith(ending))
    hashes = tuple(sorted((file, digest) for file, digest in sha256.items() if file.endswith(ending)))
    return HubModel(folder, commit, weight_bytes, pickled, hashes)


def download_config(name: str, revision: str | None) -> Path:
    """The snapshot folder of a revision, with its config.json in it."""
    from huggingface_hub import hf_hub_download

    return Path(hub_call(name, revision, lambda: hf_hub_download(name, "config.json", revision=revision))).parent


def download_weights(name: str, commit: str, pickled: bool = False) -> Path:
    """Snapshot folder of `commit` with all weights, checked for truncation; downloads what is missing."""
    patterns = SMALL_FILES + (BIN_PATTERNS if pickled else WEIGHT_PATTERNS)
    folder = Path(hub_call(name, commit, lambda: _snapshot(name, commit, patterns)))
    if not pickled:
        check_weights(folder)
    return folder


def _snapshot(name: str, commit: str, patterns: list[str]) -> str:
    """The snapshot folder of a commit; downloads what matches `patterns`, or uses the cache without a connection.

    huggingface_hub 1 asks the Hub for the list of files even where all of them are cached.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return str(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except errors.HfHubHTTPError:  # the Hub answered
        raise
    except connection_errors():
        return str(snapshot_download(name, revision=commit, allow_patterns=patterns, local_files_only=True))


def connection_errors() -> tuple[type[Exception], ...]:
    """What is raised where the Hub cannot be reached. HfHubHTTPError's first base is the HTTPError of the HTTP client
    that huggingface_hub uses (httpx, later httpx2).
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return OfflineModeIsEnabled, ConnectionError, cast("type[Exception]", HfHubHTTPError.__bases__[0])


def _list_files(name: str, commit: str) -> tuple[dict[str, int], dict[str, str]]:
    """(bytes, SHA-256) of the files of a commit, from the Hub; offline the bytes of cached weight files, no hashes."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    unreachable: tuple[type[Exception], ...] = (OSError, *connection_errors())
    try:
        info = HfApi().model_info(name, revision=commit, files_metadata=True, timeout=10)
        listed = info.siblings or []
        sha256 = {entry.rfilename: entry.lfs.sha256 for entry in listed if entry.lfs}
        return {entry.rfilename: entry.size or 0 for entry in listed}, sha256
    except unreachable:
        config = try_to_load_from_cache(name, "config.json", revision=commit)
        assert isinstance(config, str), "download_config ran before"
        cached = Path(config).parent
        paths = [path for pattern in ("*.safetensors", "*.bin") for path in cached.glob(pattern)]
        return {path.name: path.stat().st_size for path in paths}, {}


def hub_call(name: str, revision: str | None, call: Callable[[], T]) -> T:
    """The result of `call`; the errors of huggingface_hub become ModelErrors that say what to do."""
    from huggingface_hub import errors

    not_found: tuple[type[Exception], ...] = (errors.EntryNotFoundError, *connection_errors())
    try:
        return call()
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
    except not_found as error:
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise ModelError(
                f"{name} has no config.json on the Hub",
                "give a repository of a transformers model, not of an adapter or GGUF",
            ) from error
        at = f" at {revision}" if revision else ""
        raise ModelError(
            f"{name}{at} is not in the local Hub cache and the Hub cannot be reached",
            "connect once (unset HF_HUB_OFFLINE), or give a local folder; bundled/odyssey-3m needs no network",
        ) from error
