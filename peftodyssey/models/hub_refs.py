"""The branches and tags of a model repository, from the Hub or from a folder of its cache.

A cache folder is `models--<owner>--<name>` with `refs/<revision>` (a
file that holds a commit) and `snapshots/<commit>/`.
"""

from __future__ import annotations

from pathlib import Path

from peftodyssey.errors import ModelError
from peftodyssey.models.hub import hub_call

PREFIX = "models--"


def is_cache_folder(folder: Path) -> bool:
    """Whether `folder` is laid out as a repository of the Hub cache."""
    return (folder / "refs").is_dir() and (folder / "snapshots").is_dir()


def repository_id(folder: Path) -> str:
    """The Hub id that a cache folder's name spells; the name itself where it spells none."""
    return folder.name.removeprefix(PREFIX).replace("--", "/") if folder.name.startswith(PREFIX) else folder.name


def cached_revisions(folder: Path) -> list[str]:
    """Names of the revisions in a cache folder."""
    root = folder / "refs"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def snapshot_folder(folder: Path, revision: str | None) -> Path:
    """The folder with the files of a revision (None: main; or a commit). Raises ModelError where it is not there."""
    name = revision or "main"
    ref = folder / "refs" / name
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else name
    snapshot = folder / "snapshots" / commit
    if commit != Path(commit).name or not snapshot.is_dir():
        what = "snapshot of revision" if ref.is_file() else "revision"
        raise ModelError(
            f"{folder} has no {what} {name!r}", f"revisions: {', '.join(cached_revisions(folder)[:8]) or 'none'}"
        )
    return snapshot


def list_revisions(repository: str) -> tuple[list[str], str]:
    """(branches and tags of a Hub repository, note); without a connection those in the cache, which the note says.

    Raises ModelError where there is no such repository, or neither the Hub nor a cached copy.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        refs = hub_call(repository, None, lambda: HfApi().list_repo_refs(repository, repo_type="model"))
    except ModelError as error:
        folder = Path(HF_HUB_CACHE) / (PREFIX + repository.replace("/", "--"))
        if not is_cache_folder(folder):
            raise
        return cached_revisions(folder), f"only the revisions in the local cache are listed: {error.message}"
    return [ref.name for ref in (*refs.branches, *refs.tags)], ""


def commits(repository: str) -> dict[str, str]:
    """{branch or tag: commit} of a Hub repository; empty without a connection."""
    from huggingface_hub import HfApi

    try:
        refs = hub_call(repository, None, lambda: HfApi().list_repo_refs(repository, repo_type="model"))
    except ModelError:
        return {}
    return {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
