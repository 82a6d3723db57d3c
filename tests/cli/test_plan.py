"""Wrong input of `plan`, `check` and recipes: one sentence, the next step, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import micro
from support.tiny import copy_tokenizer

from peftodyssey import api
from peftodyssey.errors import InputError


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A model folder of a family that nobody knows."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "walrus", "hidden_size": 64}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    copy_tokenizer(folder)
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A model folder without config."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def refused(*arguments: object, word: str) -> None:
    ended = micro.invoke(*arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "->" in ended.stderr or "next:" in ended.stderr, "it says what to do"


def recipe(tmp_path: Path, model: object) -> Path:
    return micro.write(
        tmp_path, micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", str(model))
    )


def test_a_folder_without_config(empty: Path, tmp_path: Path) -> None:
    refused("plan", "--model", empty, word="config.json")
    refused("check", recipe(tmp_path, empty), word="config.json")


def test_an_unknown_family(stranger: Path, tmp_path: Path) -> None:
    refused("plan", "--model", stranger, word="walrus")
    refused("check", recipe(tmp_path, stranger), word="walrus")


@pytest.mark.parametrize("size", ["8potatoes", "0", "0GiB", "-3GiB", "", "8"])
def test_a_memory_that_is_no_size(size: str) -> None:
    with pytest.raises(InputError, match="--memory") as caught:
        api.plan_step("random/llama-7b", device="cpu", memory=size)
    assert "22GiB" in caught.value.next_step
    with pytest.raises(InputError, match="--memory"):
        api.plan(micro.RECIPE, device="cpu", memory=size)


def test_a_memory_that_is_no_size_ends_every_verb(tmp_path: Path) -> None:
    refused("plan", "--model", "random/llama-7b", "--memory", "8potatoes", word="8potatoes")
    refused("check", micro.write(tmp_path), "--memory", "0", word="--memory 0")
    refused("run", micro.write(tmp_path), "--memory", "8potatoes", "--out", tmp_path / "out", word="8potatoes")
    assert not (tmp_path / "out").exists()


def test_a_block_longer_than_the_positions(tmp_path: Path) -> None:
    refused("plan", "--model", "random/llama-7b", "--seq-len", "2049", word="2,048 positions")
    refused(
        "check",
        micro.write(tmp_path),
        "--set",
        "train.seq_len=2048",
        "--set",
        "train.batch_tokens=2048",
        word="1,024 positions",
    )
    assert api.plan_step("random/llama-7b", device="cpu", seq_len=2048).step.seq_len == 2048


def test_longer_positions_are_for_random_shapes(tmp_path: Path) -> None:
    longer = (
        "--set",
        "model.max_position_embeddings=8192",
        "--set",
        "train.seq_len=4096",
        "--set",
        "train.batch_tokens=4096",
    )
    path = recipe(tmp_path, "{name: random/tiny-llama}")
    refused("check", path, *longer[2:], word="512 positions")
    plan = api.plan(api.load(path, longer[1::2]), device="cpu", memory="64GiB")
    assert {task.shape.positions for task in plan.cells} == {8192}
    refused("check", micro.write(tmp_path), *longer, word="only random/ shapes")
