"""What there is to compute on: GPUs without bf16, what is kept free, and the cap on the allocator."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
import torch
from support.gpus import GIB, gpu
from support.plans import build, load_recipe

from peftodyssey import api
from peftodyssey.errors import RecipeError
from peftodyssey.execution import launch
from peftodyssey.memory.device import detect, prepare_allocator

RECIPE = """\
version: 1
name: gpus
model: bundled/odyssey-3m
domains: [bundled/arxiv_cs.CL]
methods: [{method: full}, {method: lora, rank: 4}, {method: qlora, rank: 4}]
train: {budget: 2 steps, seq_len: 64, batch_tokens: 256}
score: {context: 64, tokens: 4k}
"""


def test_a_gpu_without_bf16_trains_in_fp16_over_fp32_weights() -> None:
    auto_values_of = {
        task.cell.method.method: task.auto_values for task in build(load_recipe(RECIPE), gpu(8, bf16=False)).cells
    }
    assert {auto_values["precision"] for auto_values in auto_values_of.values()} == {"fp16"}
    assert {auto_values["master_weights"] for auto_values in auto_values_of.values()} == {"fp32"}
    assert auto_values_of["qlora"]["compute_dtype"] == "fp16"
    ampere = build(load_recipe(RECIPE), gpu(8)).cells
    assert {task.auto_values["precision"] for task in ampere} == {"bf16"}


def test_fp16_weights_are_not_trained_as_they_are() -> None:
    text = RECIPE.replace("{method: full}", "{method: full, master_weights: bf16}")
    with pytest.raises(RecipeError, match="cannot train in fp16") as caught:
        build(load_recipe(text), gpu(8, bf16=False))
    problem = caught.value.problems[0]
    assert "Tesla T4 has no bf16" in problem.what
    assert "master_weights to fp32" in problem.next_step
    assert {task.auto_values["precision"] for task in build(load_recipe(text), gpu(8)).cells} == {"bf16"}
    with pytest.raises(RecipeError, match=r"methods\[0\]\.master_weights"):
        load_recipe(text.replace("{budget", "{precision: fp16, budget"))


def test_bf16_is_refused_where_a_gpu_has_none() -> None:
    with pytest.raises(RecipeError, match="has no bf16"):
        build(load_recipe(RECIPE.replace("{budget", "{precision: bf16, budget")), gpu(8, bf16=False))


def test_half_a_gibibyte_of_a_gpu_stays_free() -> None:
    device = replace(gpu(24), free_bytes=20 * GIB)
    assert device.budget_bytes == 20 * GIB - GIB // 2
    assert build(load_recipe(RECIPE), device).budget_bytes == device.budget_bytes
    assert build(load_recipe(RECIPE), device, 8 * GIB).budget_bytes == 8 * GIB
    assert replace(gpu(24), free_bytes=0).budget_bytes == 0


def test_the_allocator_is_capped_with_and_without_a_memory_option(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * GIB, 24 * GIB))
    plan = build(load_recipe(RECIPE), replace(gpu(24), free_bytes=20 * GIB))
    launch.limit_memory(plan, None)
    launch.limit_memory(plan, 8 * GIB)
    context = launch.CUDA_CONTEXT_BYTES
    assert shares == [(19.5 * GIB - context) / (24 * GIB), (8 * GIB - context) / (24 * GIB)]
    launch.limit_memory(replace(plan, budget_bytes=100), None)
    assert shares[-1] == 0.0
    launch.limit_memory(replace(plan, device=detect("cpu")), None)
    assert len(shares) == 3


def test_only_hopper_and_its_successor_take_the_large_workspace() -> None:
    is_hopper = {c: replace(gpu(8), capability=c).is_hopper for c in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0))}
    assert [c for c, large in is_hopper.items() if large] == [(9, 0), (10, 0)]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_grows_its_segments_unless_told_otherwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv(name, "backend:native")
    prepare_allocator()
    assert os.environ[name] == "backend:native"
    assert {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ) == {name}
    monkeypatch.delenv(name)
    prepare_allocator()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setattr(sys, "platform", "win32")
    prepare_allocator()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_the_host_memory_beside_a_device_is_known() -> None:
    device = detect("cpu")
    assert device.host_free_bytes == device.free_bytes > 0
    assert api.plan(RECIPE, device="cpu").device.capability == (0, 0)
