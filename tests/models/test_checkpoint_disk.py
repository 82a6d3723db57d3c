"""The disk limit of downloads: only the run's own are deleted, oldest first, without files that other snapshots use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftodyssey.errors import DoesNotFit
from peftodyssey.models.checkpoint_disk import RECORD, make_room, needed_bytes
from peftodyssey.models.source import ModelSource

SIZE = 1000


def rung(cache: Path, number: int, blob: str | None = None, *, there: bool = True) -> ModelSource:
    """A snapshot of a Hub cache with weights of SIZE bytes, linked to a blob as huggingface_hub does it."""
    commit = f"{number:040x}"
    folder = cache / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    source = ModelSource(
        "a/b", f"step{number}", "hub", folder, {}, commit, folder, None, None, "float32", weight_bytes_on_disk=SIZE
    )
    if there:
        download(source, blob)
    return source


def download(source: ModelSource, blob: str | None = None) -> None:
    content = source.folder.parent.parent / "blobs" / (blob or source.fingerprint)
    content.parent.mkdir(exist_ok=True)
    content.write_bytes(b"x" * SIZE)
    (source.folder / "model.safetensors").symlink_to(content)


def use(root: Path, source: ModelSource, budget: int) -> list[str]:
    dropped = make_room(root, source, budget)
    if not (source.folder / "model.safetensors").exists():
        download(source)
    return dropped


def weights(sources: list[ModelSource]) -> list[int]:
    return [n for n, source in enumerate(sources) if (source.folder / "model.safetensors").exists()]


def test_the_longest_unused_goes_first(tmp_path):
    sources = [rung(tmp_path / "cache", n, there=False) for n in range(4)]
    root = tmp_path / "run"
    assert use(root, sources[0], 2 * SIZE) == []
    assert use(root, sources[1], 2 * SIZE) == []
    assert use(root, sources[0], 2 * SIZE) == []  # used again
    assert use(root, sources[2], 2 * SIZE) == ["a/b at step1"]
    assert weights(sources) == [0, 2]
    assert use(root, sources[3], SIZE) == ["a/b at step0", "a/b at step2"]
    assert weights(sources) == [3]
    assert all((source.folder / "config.json").exists() for source in sources)
    assert len(list((tmp_path / "cache" / "blobs").iterdir())) == 1
    assert [entry["revision"] for entry in json.loads((root / RECORD).read_text())] == ["step3"]


def test_what_was_there_before_the_run_stays(tmp_path):
    old, new = rung(tmp_path / "cache", 0), [rung(tmp_path / "cache", n, there=False) for n in (1, 2)]
    assert use(tmp_path / "run", old, SIZE) == []
    assert use(tmp_path / "run", new[0], SIZE) == []
    assert use(tmp_path / "run", new[1], SIZE) == ["a/b at step1"]
    assert weights([old, *new]) == [0, 2]


def test_a_blob_that_another_snapshot_uses_stays(tmp_path):
    cache = tmp_path / "cache"
    first, second = rung(cache, 0, there=False), rung(cache, 1, there=False)
    make_room(tmp_path / "run", first, SIZE)
    download(first, "same")
    (rung(cache, 2, "same").folder / "model.safetensors").read_bytes()
    assert use(tmp_path / "run", second, SIZE) == ["a/b at step0"]
    assert (cache / "blobs" / "same").exists()


def test_a_download_that_was_broken_off_is_the_runs_own(tmp_path):
    sources = [rung(tmp_path / "cache", n, there=False) for n in range(2)]
    make_room(tmp_path / "run", sources[0], SIZE)  # then the process is killed, its weights complete or not
    download(sources[0])
    assert use(tmp_path / "run", sources[0], SIZE) == []
    assert use(tmp_path / "run", sources[1], SIZE) == ["a/b at step0"]


def test_one_that_is_too_large_alone_is_refused_and_others_do_not_count(tmp_path):
    source = rung(tmp_path / "cache", 0, there=False)
    with pytest.raises(DoesNotFit, match="--checkpoint-disk"):
        make_room(tmp_path / "run", source, SIZE - 1)
    assert needed_bytes(replace(source, pickled=True)) == 2 * SIZE
    local = replace(source, kind="local")
    assert needed_bytes(local) == 0
    assert make_room(tmp_path / "run", local, 1) == []
    assert not (tmp_path / "run" / RECORD).exists()
