"""Broken models and a full disk: a clear error or a failed cell, never a traceback, nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import micro

from peftodyssey import api, assets


def run(tmp_path: Path, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    text = micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", str(model))
    return micro.invoke("run", micro.write(tmp_path, text), "--out", out, "--only", "method=lora")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model as a folder of one's own."""
    source, target = assets.unpack_model("odyssey-3m", "annealed-64M"), tmp_path / "model"
    target.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def test_a_local_folder_works(folder: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, folder, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr


def test_a_truncated_file_is_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    ended = run(tmp_path, folder, tmp_path / "out")
    assert ended.returncode == 2
    assert "model.safetensors" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    ended = run(tmp_path, folder, tmp_path / "out")
    assert ended.returncode == 2
    assert "pickle" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_weights_that_change_under_way_fail_the_cell_alone(folder: Path, tmp_path: Path) -> None:
    text = micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", str(folder))
    plan = api.plan(micro.write(tmp_path, text))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    _, outcome, root = api.run_plan(plan, tmp_path / "out")
    rows = api.open(root).results.to_pylist()
    assert outcome.done == 0
    assert {row["status"] for row in rows} == {"failed"}
    assert all("model.safetensors" in row["reason"] for row in rows)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", place], capture_output=True).returncode
    ):
        pytest.skip("a file system of a few hundred KiB can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(small_disk: Path, tmp_path: Path) -> None:
    recipe = micro.write(tmp_path)
    ended = micro.invoke("run", recipe, "--out", small_disk / "out", "--only", "method=lora")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr
    finished = set(small_disk.rglob("manifest.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = micro.invoke("run", recipe, "--out", small_disk / "out", "--only", "method=lora")
    assert again.returncode == 0, again.stderr
    assert finished <= set(small_disk.rglob("manifest.json"))
