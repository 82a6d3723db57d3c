"""Host memory and disk before a run: the terms by hand, what is refused, and what loading really takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support import micro
from support.adapted_models import frozen_digest
from support.gpus import GIB, gpu
from support.plans import build, load_recipe
from transformers import LlamaConfig, LlamaForCausalLM

from peftodyssey import api
from peftodyssey.errors import DoesNotFit, StoreError
from peftodyssey.execution.launch import Options
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods import mmap_copy
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import resolve
from peftodyssey.plan import host_and_disk
from peftodyssey.report import console_output

LLAMA = resolve("random/llama-7b")
SIZES = shape_from_config(LLAMA.config)
FULL = StepSpec(
    precision="bf16",
    quant=None,
    trainable=SIZES.parameters,
    full=True,
    adapter_rank=0,
    seq_len=1024,
    micro_batch_size=1,
    gradient_checkpointing="full",
    engine="native",
    device="cuda",
    optimizer="adamw8bit",
    master="bf16",
    offload_optimizer=True,
)


def terms(amounts: host_and_disk.HostPlan | host_and_disk.DiskPlan) -> dict[str, int]:
    return {term.name: term.size_bytes for term in amounts.terms if term.size_bytes}


def test_llama_in_full_fits_a_host_of_48_gib() -> None:
    n = SIZES.parameters
    amounts = terms(host_and_disk.host_plan(FULL, SIZES, LLAMA))
    assert amounts["gradients"] == 2 * n
    assert amounts["optimiser states"] == pytest.approx(2 * (1 + 4 / 256) * n, abs=16)
    assert amounts["writing weights"] == 2 * n
    assert "copy of the base" not in amounts  # in a file
    assert host_and_disk.base_copy_bytes(FULL, SIZES) == 2 * n > mmap_copy.MAPPED_COPY_BYTES
    assert 38 * GIB < host_and_disk.host_plan(FULL, SIZES, LLAMA).peak_bytes < 40 * GIB
    states = terms(host_and_disk.host_plan(replace(FULL, optimizer="adamw"), SIZES, LLAMA))["optimiser states"]
    assert states == 2 * 2 * n


def test_offloaded_activations_are_one_input_a_layer_in_powers_of_two() -> None:
    step = replace(
        FULL,
        full=False,
        adapter_rank=8,
        trainable=10**7,
        offload_optimizer=False,
        offload_activations=True,
        seq_len=1536,
    )
    assert terms(host_and_disk.host_plan(step, SIZES, LLAMA))["activations"] == 32 * 2048 * 4096 * 2
    assert "activations" not in terms(host_and_disk.host_plan(replace(step, offload_activations=False), SIZES, LLAMA))


def test_loading_a_7b_base_needs_a_few_tensors_of_the_host() -> None:
    lora = replace(FULL, full=False, adapter_rank=8, trainable=10**7, offload_optimizer=False)
    stored = replace(LLAMA, kind="local", default_dtype="float16", weight_bytes_on_disk=2 * SIZES.parameters)
    with torch.device("meta"):
        whole = LlamaForCausalLM(LlamaConfig(**LLAMA.config))
    largest_bytes = max(2 * parameter.numel() for parameter in whole.parameters())
    needs = host_and_disk.host_plan(lora, SIZES, stored)
    assert terms(needs)["loading"] % largest_bytes == 0
    assert 2 * largest_bytes <= terms(needs)["loading"] <= 6 * largest_bytes
    assert needs.peak_bytes < 3 * GIB


def test_a_cell_on_the_cpu_takes_its_step_and_a_copy_of_what_is_trained() -> None:
    plan = api.plan(micro.RECIPE, device="cpu")
    full = next(task for task in plan.cells if task.cell.method.method == "full")
    amounts = terms(host_and_disk.cell_host_plan(plan, full))
    assert amounts["step"] == full.memory.device_bytes
    assert amounts["copy of the base"] == 4 * full.trainable
    assert 0 < amounts["texts"] < 2 * GIB


def test_disk_counts_columns_adapters_and_two_checkpoints() -> None:
    plan = api.plan(micro.RECIPE, device="cpu")
    needs = host_and_disk.disk_plan(plan)
    size = {task.cell.method.method: task.trainable for task in plan.cells}
    assert terms(needs)["largest cell while it trains"] == 2 * 12 * size["full"]
    assert terms(needs)["adapters"] == 4 * (size["lora"] + size["qlora"])
    assert needs.download_bytes == 0
    assert terms(host_and_disk.disk_plan(plan, "all"))["models kept"] == 2 * 4 * size["full"]
    assert terms(host_and_disk.disk_plan(plan, "best"))["models kept"] == 4 * size["full"]


def test_a_small_host_is_refused_by_check_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = build(load_recipe(micro.RECIPE), gpu(8, host_gib=0.25))
    assert not plan.too_large
    with pytest.raises(DoesNotFit, match=r"host memory are needed and 0\.25 GiB are free") as caught:
        api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    assert any("does not fit" in str(part) for part in console_output.check(plan, tmp_path))
    assert host_and_disk.problems(build(load_recipe(micro.RECIPE), gpu(8, host_gib=16)), tmp_path) == []
    assert (
        host_and_disk.problems(build(load_recipe(micro.RECIPE), gpu(8)), tmp_path) == []
    )  # not known: not held against it


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", "random/llama-3.2-1b")
    plan = build(load_recipe(text), gpu(80, host_gib=256))
    free = host_and_disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(host_and_disk.shutil, "disk_usage", lambda place: free._replace(free=20 * GIB))
    with pytest.raises(DoesNotFit, match=r"are written below .* and 20\.00 GiB are free"):
        api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    only = Options(only={"method": "lora"})
    assert (
        host_and_disk.problems(
            plan, tmp_path / "out", [t for t in plan.cells if t.cell.method.method in only.only.values()]
        )
        == []
    )


def test_downloads_need_room_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = api.plan(micro.RECIPE, device="cpu")
    hub = replace(plan.cells[0].base.source, kind="hub", folder=tmp_path, weight_bytes_on_disk=30 * GIB)
    cells = tuple(replace(task, base=replace(task.base, source=hub)) for task in plan.cells)
    downloading = replace(plan, cells=cells)
    assert host_and_disk.disk_plan(downloading).download_bytes == 30 * GIB
    free = host_and_disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(host_and_disk.shutil, "disk_usage", lambda place: free._replace(free=20 * GIB))
    assert any("have to be downloaded" in problem for problem in host_and_disk.problems(downloading, tmp_path))


def test_a_spilled_copy_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path))
    shapes = {"a": (3, 5), "empty": (0, 4), "b": (7,), "c": ()}
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape).to(dtype), requires_grad=False)
        for (name, shape), dtype in zip(
            shapes.items(), (torch.bfloat16, torch.float32, torch.float32, torch.float16), strict=True
        )
    }
    copies = mmap_copy.mmap_copy(parameters)
    assert list(tmp_path.iterdir()) == []  # no name: nothing is left behind
    for name, parameter in parameters.items():
        assert copies[name].dtype == parameter.dtype
        assert torch.equal(copies[name], parameter)
        parameter.data.add_(1)
        assert not parameter.numel() or not torch.equal(copies[name], parameter)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="PEFTODYSSEY_CACHE"):
        mmap_copy.mmap_copy(parameters)


def test_detach_restores_the_base_from_a_mapped_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    from peftodyssey.methods import weights
    from peftodyssey.methods.registry import METHODS
    from peftodyssey.models.load import load
    from peftodyssey.recipe.cell import MethodSpec

    monkeypatch.setattr(weights, "MAPPED_COPY_BYTES", 0)
    model = load(resolve("random/tiny-llama"), precision="bf16")
    before = frozen_digest(model)
    attached = METHODS["full"].attach(model, MethodSpec("full", "full", lr=1e-3), 0)
    assert weights.max_change(attached) == 0.0
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(1.0)
    assert weights.max_change(attached) == pytest.approx(1.0, rel=0.01)
    METHODS["full"].detach(attached)
    assert frozen_digest(model) == before


def test_on_a_cpu_the_copy_of_the_base_is_in_the_plan_of_a_full_cell(tmp_path: Path) -> None:
    plan = api.plan(api.load(micro.write(tmp_path)), device="cpu")
    for task in plan.cells:
        copy = 4 * task.shape.parameters if task.cell.method.method == "full" else 0
        start = 4 * task.trainable if task.cell.method.method != "full" else 0
        assert host_and_disk.planned_bytes(task) == task.memory.device_bytes + copy + start
        assert task.entry["coordinates"]["planned_memory_bytes"] == host_and_disk.planned_bytes(task)
