"""M2D2's domains, read from their tarballs: rows are lines, without document marks.

A tarball is looked for under `PEFTODYSSEY_M2D2` (a folder of `<config>.tar.gz` or `<config>/test.txt`), then fetched
from the Hub dataset machelreid/m2d2 when it is first read. Its loading script is never run.
"""

from __future__ import annotations

import difflib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from peftodyssey.constants import SPLITS
from peftodyssey.corpora import fingerprint
from peftodyssey.corpora.hub import hub_errors
from peftodyssey.corpora.readers import COPY_AGAIN, lines
from peftodyssey.corpora.splits import did_you_mean
from peftodyssey.errors import CorpusError

DATASET = "machelreid/m2d2"
FOLDER_VARIABLE = "PEFTODYSSEY_M2D2"
L1 = (
    "Culture_and_the_arts",
    "General_referece",
    "Health_and_fitness",
    "History_and_events",
    "Human_activites",
    "Mathematics_and_logic",
    "Natural_and_physical_sciences",
    "Philosophy_and_thinking",
    "Religion_and_belief_systems",
    "Society_and_social_sciences",
    "Technology_and_applied_sciences",
    "Art",
    "Philosophy",
    "astro-ph_l1",
    "cond-mat_l1",
    "cs_l1",
    "econ_l1",
    "eess_l1",
    "math_l1",
    "nlin_l1",
    "physics_l1",
    "q-bio_l1",
    "q-fin_l1",
    "stat_l1",
)
WIKIPEDIA = L1[: L1.index("Art")]


def local_copy(config: str) -> Path | None:
    """The tarball or folder of a config on this computer, where `PEFTODYSSEY_M2D2` names its folder."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    candidates = (Path(root) / f"{config}.tar.gz", Path(root) / "data" / f"{config}.tar.gz", Path(root) / config)
    return next((path for path in candidates if path.exists()), None)


def check_name(config: str) -> None:
    """Raises CorpusError for a name that is nearly one of the first level: two of those are spelt unusually."""
    near = difflib.get_close_matches(config, L1, n=1, cutoff=0.88)
    if config not in L1 and near and not config.endswith("_l1"):
        raise CorpusError(
            f"M2D2 has no config {config!r}", f"did you mean m2d2/{near[0]}? (the spelling is part of the name)"
        )


def identity(config: str, copy: Path | None, revision: str | None) -> tuple[str, int | None]:
    """(fingerprint of the content, bytes on disk). Asks the Hub where there is no copy. Raises CorpusError."""
    if copy is None:
        return _hub_identity(config, revision)
    files = (
        [copy] if copy.is_file() else [copy / f"{split}.txt" for split in SPLITS if (copy / f"{split}.txt").is_file()]
    )
    if not files:
        raise CorpusError(f"{copy} holds none of train.txt, valid.txt, test.txt", "point to a folder of M2D2 tarballs")
    hashes = [fingerprint.of_file(file) for file in files]
    return fingerprint.of_splits({"m2d2": hashes}), sum(file.stat().st_size for file in files)


def rows(config: str, split: str, copy: Path | None, revision: str | None) -> Iterator[str]:
    """The rows of one split: lines without the white space around them, blank ones as empty rows."""
    path = copy or _download(config, revision)
    stream = _folder_lines(path, split) if path.is_dir() else _tar_lines(path, config, split)
    return (line.strip() for line in stream)


def _folder_lines(folder: Path, split: str) -> Iterator[str]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        raise CorpusError(f"{folder} has no {split}.txt", "get the complete tarball of this config")
    return lines(path.open("rb"), str(path))


def _tar_lines(path: Path, config: str, split: str) -> Iterator[str]:
    """Lines of one member, streamed: nothing is written to disk and no other member is opened."""
    wanted = f"{config}/{split}.txt"
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./") == wanted:
                    stream = tar.extractfile(member)
                    assert stream is not None, "a regular file can be read"
                    yield from lines(stream, f"{path}:{wanted}")
                    return
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(f"{path} is not a complete tarball: {error}", COPY_AGAIN) from error
    raise CorpusError(f"{path} holds no {wanted}", "check that the tarball belongs to this config")


def _hub_identity(config: str, revision: str | None) -> tuple[str, int | None]:
    from huggingface_hub import HfApi, RepoFile

    with hub_errors(DATASET, revision):
        entries = HfApi().get_paths_info(DATASET, _file(config), repo_type="dataset", revision=revision)
    if not entries or not isinstance(entries[0], RepoFile):
        near = did_you_mean(config, L1)
        raise CorpusError(
            f"M2D2 has no config {config!r}", f"{near}its configs are the names in data/ of machelreid/m2d2"
        )
    content = entries[0].lfs.sha256 if entries[0].lfs else entries[0].blob_id
    return fingerprint.of_splits({"m2d2": [content]}), entries[0].size


def _download(config: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(DATASET, revision):
        return Path(hf_hub_download(DATASET, _file(config), repo_type="dataset", revision=revision))


def _file(config: str) -> str:
    return f"data/{config}.tar.gz"
