"""The recipes for a 7B model fit the GPUs that they are named after, and run as they stand on a smaller shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console
from support.gpus import GIB, gpu
from support.plans import build, load_recipe

from peftodyssey import api
from peftodyssey.plan import host_and_disk
from peftodyssey.recipe import bundled

NAMES = [name for name, _ in bundled.names() if name.startswith("llama7b-")]
HOST_GIB = {"llama7b-full-24gb": 48.0, "llama7b-contrast-24gb": 48.0}  # else 16
WITHOUT_BF16 = {"llama7b-contrast-16gb"}
METHODS = {  # what the contrast of each card compares
    "llama7b-contrast-24gb": {"full", "lora", "qlora"},
    "llama7b-contrast-16gb": {"lora", "qlora"},
    "llama7b-contrast-8gb": {"qlora"},
}


def memory_gib(name: str) -> int:
    """The size in a recipe's name."""
    size = re.search(r"-(\d+)gb$", name)
    assert size
    return int(size.group(1))


def test_there_is_one_for_every_way_and_gpu() -> None:
    assert {"llama7b-qlora-24gb", "llama7b-qlora-8gb", "llama7b-lora-24gb", "llama7b-compare-24gb"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_its_gpu_whole_and_beside_a_desktop(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = host_and_disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(host_and_disk.shutil, "disk_usage", lambda place: disk._replace(free=128 * GIB))
    size = memory_gib(name)
    for budget in (size * GIB, int(re.findall(r"--memory (\d+)GiB", bundled.read(name))[0]) * GIB):
        card = gpu(size, bf16=name not in WITHOUT_BF16, host_gib=HOST_GIB.get(name, 16))
        plan = build(load_recipe(name), card, budget)
        assert plan.cells
        assert plan.too_large == ()
        assert host_and_disk.problems(plan, tmp_path) == []
        assert {task.shape.parameters for task in plan.cells} == {6_738_415_616}
        assert all(task.memory.device_bytes <= budget for task in plan.cells)


@pytest.mark.parametrize("name", METHODS)
def test_a_contrast_has_what_a_verdict_takes(name: str) -> None:
    """Three seeds and three rates of every method and rank, a text like the pretraining text and one unlike it."""
    plan = build(load_recipe(name), gpu(80, host_gib=128))
    assert {task.cell.method.method for task in plan.cells} == METHODS[name]
    groups: dict[tuple[str, str], set[tuple[float | None, int]]] = {}
    for task in plan.cells:
        cell = task.cell
        assert cell.method.tuned
        groups.setdefault((cell.domain.name, cell.method.label), set()).add((cell.method.lr, cell.seed))
        assert "contrast" in task.entry["measures"]
    assert {domain for domain, _ in groups} == {"arxiv_cs.CL", "wiki_history_events"}
    for points in groups.values():
        assert len({lr for lr, _ in points}) == len({seed for _, seed in points}) == 3
        assert len(points) == 9


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_to_give_the_real_model(name: str) -> None:
    text = bundled.read(name)
    assert f"run {name} " in text
    assert "--set model.name=huggyllama/llama-7b" in text
    assert "--set model.name=/path" in text
    assert load_recipe(name, ["model.name=huggyllama/llama-7b"]).model[0].name == "huggyllama/llama-7b"


@pytest.mark.parametrize("name", NAMES)
def test_longer_blocks_can_be_rehearsed(name: str) -> None:
    longer = ["model.max_position_embeddings=8192", "train.seq_len=8192"]
    plan = build(load_recipe(name, longer), gpu(80, host_gib=128))
    assert {(task.shape.positions, task.step.seq_len) for task in plan.cells} == {(8192, 8192)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_end_to_end_on_a_small_shape(name: str, tmp_path: Path) -> None:
    small = [
        "model.name=random/tiny-llama",
        "train.budget=2 steps",
        "train.seq_len=64",
        "train.batch_tokens=128",
        "score.context=64",
        "score.stride=32",
        "score.tokens=1k",
        "methods[0].lr=1e-2",
    ]
    ranks = ["methods[0].rank=4", "methods[1].rank=4", "methods[1].lr=1e-2", "domains=[bundled/arxiv_cs.CL]"]
    if "contrast" in name:
        small += ["seeds=[0]", "domains=[bundled/arxiv_cs.CL]", "methods[0].rank=2"]
        small += ["methods[1].rank=2"] * ("8gb" not in name) + ["measure=[degradation, forgetting]"] * ("8gb" in name)
        small += ["train.precision=fp32"] * (name in WITHOUT_BF16)
    bf16 = ["train.precision=bf16"] * ("full" in name)  # its master weights are bf16, which fp32 arithmetic refuses
    plan = api.plan(api.load(name, small + bf16 + ranks * ("compare" in name)), device="cpu")
    run, outcome, _ = api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    assert run is not None
    assert not outcome.failed
    rows = run.results.to_pylist()
    assert {row["status"] for row in rows} == {"done"}
    assert all((row["nll_quantised"] is not None) == (row["method"] == "qlora") for row in rows)
