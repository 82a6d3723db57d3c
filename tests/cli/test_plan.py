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
from peftodyssey.models import shapes


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


def lines(*arguments: object, code: int = 0) -> str:
    ended = micro.invoke("plan", *arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


def test_memory_means_a_gpu_in_both_forms(tmp_path: Path) -> None:
    step = ("--model", "random/llama-7b", "--method", "qlora")
    by_recipe, by_options = (
        json.loads(lines(*form, "--memory", "12GB", "--device", "cuda", "--json"))
        for form in ((micro.write(tmp_path),), step)
    )
    assert by_recipe["device"] == by_options["device"]
    assert by_recipe["device"]["kind"] == "cuda"
    assert by_recipe["budget_bytes"] == by_options["budget_bytes"] == 12 * 10**9
    assert "computed in bf16" in by_recipe["cells"][0]["dtypes"]
    assert "computed in fp16" in lines(*step, "--gpu", "T4")
    assert lines(micro.write(tmp_path), "--gpu", "RTX 4090").startswith("device: RTX 4090 (--gpu")
    cpu = lines(micro.write(tmp_path), "--device", "cpu", "--memory", "8GiB")
    assert cpu.startswith("device: CPU")
    assert "computed in fp32" in cpu


def test_a_plan_for_another_device_cannot_be_run(tmp_path: Path) -> None:
    planned = api.plan(micro.RECIPE, gpu="RTX 4090", here=False)
    with pytest.raises(InputError, match="--gpu"):
        api.run_plan(planned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


LARGE = """\
version: 1
name: large
model: {name: random/llama-7b}
domains: [bundled/arxiv_cs.CL]
methods: [METHOD]
train: {budget: 2 steps, seq_len: 2048, batch_tokens: 4096}
score: {context: 2048, tokens: 4k}
"""


def changes(tmp_path: Path, method: str, memory: str) -> list[str]:
    path = micro.write(tmp_path, LARGE.replace("METHOD", method))
    planned = json.loads(lines(path, "--memory", memory, "--device", "cuda", "--json", code=3))
    return planned["cells"][0]["changes"]


def test_a_recipe_that_does_not_fit_is_told_what_would(tmp_path: Path) -> None:
    lora = changes(tmp_path, "{method: lora, rank: 8}", "8GiB")
    assert any("method: qlora" in change for change in lora)
    assert any("RTX 4060 Ti 16GB" in change for change in lora), "13.5 GiB and the margin"
    path = micro.write(tmp_path, LARGE.replace("METHOD", "{method: qlora, rank: 8}"))
    assert lines(path, "--memory", "8GiB", "--device", "cuda"), "and it does"
    full = changes(tmp_path, "{method: full}", "24GiB")
    for key in ("method: lora", "method: qlora"):
        assert any(key in change for change in full)
    assert "no change" in changes(tmp_path, "{method: qlora, rank: 8}", "2GiB")[0]


def test_the_shorter_sequence_that_is_proposed_fits(tmp_path: Path) -> None:
    wide = LARGE.replace("random/llama-7b}", "random/llama-7b, max_position_embeddings: 65536}").replace(
        "METHOD", "{method: qlora, rank: 8}"
    )
    wide = wide.replace("seq_len: 2048, batch_tokens: 4096", "seq_len: 65536, batch_tokens: 65536")
    path = micro.write(tmp_path, wide)
    planned = json.loads(lines(path, "--memory", "8GiB", "--device", "cuda", "--json", code=3))
    (change,) = (change for change in planned["cells"][0]["changes"] if "train.seq_len=" in change)
    setting = change.split("with ")[1].split(":")[0]
    assert lines(path, "--memory", "8GiB", "--device", "cuda", "--set", setting)


def test_sequences_beyond_the_positions_are_told_the_ways_out(tmp_path: Path) -> None:
    step = ("plan", "--model", "random/llama-7b", "--seq-len", "4096")
    refused(*step, word="--max-position-embeddings 4096")
    refused(*step, word="random/llama-2-7b (4,096)")
    assert lines(*step[1:], "--max-position-embeddings", "4096", "--gpu", "RTX 4090")
    long = micro.write(tmp_path, LARGE.replace("METHOD", "{method: qlora, rank: 8}"))
    refused("plan", long, "--set", "score.context=8192", word="model.max_position_embeddings: 8192")


def test_a_folder_with_a_config_alone_is_planned(tmp_path: Path) -> None:
    folder = tmp_path / "config-only"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shapes.named_configs()["llama-3.2-1b"]))
    assert "fits" in lines("--model", folder, "--method", "lora", "--gpu", "RTX 4090")
    path = recipe(tmp_path, f"{{name: {folder}}}")
    assert "no weights here" in lines(path, "--gpu", "RTX 4090")
    refused("check", path, word="holds no model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    refused("plan", "--model", folder, word="causal")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("RECIPE", "--rank", "8"), "--set methods[0].rank"),
        (("RECIPE", "--model", "random/llama-7b"), "--model"),
        (("RECIPE", "--gradient-checkpointing", "full"), "chooses it by memory"),
        (("RECIPE", "--gpu", "T4", "--probe"), "--probe"),
        (("--model", "random/llama-7b", "--set", "seeds=[0]"), "--set"),
        (("--model", "random/llama-7b", "--method", "full", "--rank", "8"), "--rank"),
        (("--model", "random/llama-7b", "--offload", "optimizer"), "--offload optimizer"),
        (("--model", "random/llama-7b", "--master-weights", "bf16"), "--master-weights"),
        (("--model", "random/llama-7b", "--gpu", "GTX 42"), "RTX 4090"),
        (("--model", "random/llama-7b", "--gpu", "T4", "--device", "cpu"), "--gpu"),
    ],
)
def test_options_without_effect_are_errors(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    path = micro.write(tmp_path)
    refused("plan", *(path if option == "RECIPE" else option for option in options), word=word)
