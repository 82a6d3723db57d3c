"""Hashes of the weight files of rungs: from the Hub's own list of files, or of local files, without loading them.

`Hashes` maps each weight file of a rung to its hash; empty where the rung has no weights, None where that is not known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models import hub_refs
from peftodyssey.models.bin_conversion import write_json
from peftodyssey.models.weight_files import sampled_sha256

Hashes = Mapping[str, str]
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")
SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_REQUESTS = 8  # at a time


def weight_hashes(name: str, rungs: Sequence[str]) -> dict[str, Hashes | None]:
    """{rung: hashes of its weight files} of the ladder `name`: bundled, a folder, a folder of the Hub cache, or a Hub
    repository, of which one request for each rung is made and kept.
    """
    root = Path(name).expanduser()
    if name.startswith("bundled/"):
        model = name.removeprefix("bundled/")
        return {rung: {"model.safetensors": assets.model_sha256(model, rung)} for rung in rungs}
    if hub_refs.is_cache_folder(root):
        return with_whole_files({rung: _snapshot_files(root, rung) for rung in rungs})
    if root.is_dir():
        return with_whole_files({rung: rung_files(root, rung) for rung in rungs})
    return _hub_hashes(name, rungs)


def rung_files(root: Path, rung: str) -> list[Path]:
    """The weight files of a rung of a local ladder: in its folder, or the one that is named after it."""
    if (root / f"{rung}.safetensors").is_file():
        return [root / f"{rung}.safetensors"]
    return weight_files_in(root / rung)


def weight_files_in(folder: Path) -> list[Path]:
    """The weight files of a model folder, safetensors where it has both."""
    files = sorted(path for path in folder.glob("*") if WEIGHTS.fullmatch(path.name) and path.exists())
    return [path for path in files if path.suffix == ".safetensors"] or files


def _snapshot_files(root: Path, rung: str) -> list[Path] | None:
    """The weight files of a cached revision; None where none is cached, which says nothing about the Hub."""
    try:
        return weight_files_in(hub_refs.snapshot_folder(root, rung)) or None
    except ModelError:
        return None


def with_whole_files(files: Mapping[str, list[Path] | None]) -> dict[str, Hashes | None]:
    """Hashes of the files of rungs. A large file is read wholly, once, only where samples of it equal another's."""
    samples = {
        path: _file_name_sha256(path) or sampled_sha256(path) for paths in files.values() for path in paths or ()
    }
    counts: dict[str, int] = {}
    for digest in samples.values():
        counts[digest] = counts.get(digest, 0) + 1
    whole = {path: _whole_sha256(path) if counts[digest] > 1 else digest for path, digest in samples.items()}
    return {
        rung: None if paths is None else {_shard_name(path, len(paths)): whole[path] for path in paths}
        for rung, paths in files.items()
    }


def _shard_name(path: Path, count: int) -> str:
    """The file's name; of a single file the same whatever the rung is called."""
    return path.name if count > 1 else f"model{path.suffix}"


def _file_name_sha256(path: Path) -> str | None:
    """The hash that the Hub cache names a file by."""
    blob = path.resolve().name
    return blob if path.is_symlink() and SHA256.fullmatch(blob) else None


def _whole_sha256(path: Path) -> str:
    """SHA-256 of a file, kept in the cache by its path, size and time of change."""
    if known := _file_name_sha256(path):
        return known
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    kept = assets.cache_folder() / "hashes" / f"{key[:32]}.json"
    if kept.is_file():
        return str(json.loads(kept.read_text(encoding="utf-8")))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, digest)
    return digest


def _hub_hashes(name: str, rungs: Sequence[str]) -> dict[str, Hashes | None]:
    """As the Hub's list of files states them, a few requests at a time; None for all without a connection."""
    commits = hub_refs.commits(name)
    with ThreadPoolExecutor(HUB_REQUESTS) as pool:
        found = pool.map(lambda rung: _commit_hashes(name, commits[rung]) if rung in commits else None, rungs)
        return dict(zip(rungs, found, strict=True))


def _commit_hashes(name: str, commit: str) -> Hashes | None:
    """Hashes of one commit, which never change and are kept in the cache."""
    from huggingface_hub import HfApi

    from peftodyssey.models.hub import connection_errors

    kept = assets.cache_folder() / "hashes" / f"hub-{commit}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    unreachable: tuple[type[Exception], ...] = (OSError, *connection_errors())
    try:
        info = HfApi().model_info(name, revision=commit, files_metadata=True, timeout=10)
    except unreachable:
        return None
    hashes = hashes_of_listing(
        (entry.rfilename, entry.lfs.sha256 if entry.lfs else None) for entry in info.siblings or ()
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, hashes)
    return hashes


def hashes_of_listing(listing: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """{weight file: sha256} of the files that the Hub lists, safetensors where there are both."""
    found = {file: sha256 for file, sha256 in listing if sha256 and WEIGHTS.fullmatch(file)}
    safe = {file: sha256 for file, sha256 in found.items() if file.endswith(".safetensors")}
    return safe or found
