"""How far a real run's weights travelled: rows against a dense decomposition and PEFT's own count; asked for
afterwards; interrupted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension
from rich.console import Console
from safetensors.torch import load_file
from support import micro

from peftodyssey import api, assets
from peftodyssey.measures.geometry import job
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import iter_updates
from peftodyssey.models.load import load
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import MethodSpec
from peftodyssey.store import layout, manifest, parquet

PLAIN = """\
version: 1
name: moves
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
methods: [{method: full, lr: 1e-3}, {method: lora, rank: 2, lr: 1e-2}]
train: {budget: 2 steps, seq_len: 64, batch_tokens: 256, eval_at: [100%], multi_lora: off}
score: {context: 64, stride: 32, tokens: 2k}
measure: [degradation]
"""
ASKED = PLAIN.replace("[degradation]", "[degradation, geometry]")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def base():
    return load(resolve("bundled/odyssey-3m", "annealed-64M", None), precision="fp32")


def go(folder: Path, text: str, out: str):
    return api.run_plan(api.plan(micro.write(folder, text)), folder / out, console=QUIET)


@pytest.mark.slow
def test_asked_for_afterwards_adapters_are_measured_and_nothing_is_trained_again(tmp_path: Path) -> None:
    first, _, root = go(tmp_path, PLAIN, "out")
    assert first is not None
    assert all(row["update_norm_relative"] is None for row in first.results.to_pylist())
    manifests = {path: path.read_bytes() for path in root.glob("cells/*/manifest.json")}
    run, outcome, _ = go(tmp_path, ASKED, "out")
    assert run is not None
    assert (outcome.done, outcome.skipped) == (1, 1)
    assert {path: path.read_bytes() for path in root.glob("cells/*/manifest.json")} == manifests
    later = {row["method"]: row for row in run.results.to_pylist()}
    assert later["full"]["update_norm_relative"] is None  # its weights were dropped
    assert go(tmp_path, ASKED, "out")[1].worked is False
    fresh, _, _ = go(tmp_path, ASKED, "anew")
    assert fresh is not None
    at_once = {row["method"]: row for row in fresh.results.to_pylist()}
    for name in ("update_norm_relative", "effective_rank_mean", "intruder_dimensions"):
        assert later["lora"][name] == pytest.approx(at_once["lora"][name], rel=1e-6)
        assert at_once["full"][name] is not None
    assert at_once["full"]["effective_rank_mean"] > 2 >= at_once["lora"]["effective_rank_mean"] >= 1
    assert {row["cell"] for row in later.values()} == {row["cell"] for row in at_once.values()}


def test_intruders_are_those_that_peft_would_reduce(base) -> None:
    """PEFT's mitigation names their number for every layer; its rule is k = 10, cosine 0.5 on the outputs' side."""
    attached = METHODS["lora"].attach(
        base, MethodSpec("lora", "lora", rank=4, alpha=8.0, targets=("q_proj", "down_proj")), 0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in attached.trainable.items():
            if "lora_B" in name:
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    messages: list[str] = []
    ours = {update.name: job._row(update, True)["intruders"] for update in iter_updates(attached)}
    reduce_intruder_dimension(attached.model, logging_sink=messages.append)
    theirs = {
        line.split(":")[0].removeprefix("base_model.model.") + ".weight": 0
        if "No intruders" in line
        else int(line.rsplit(" ", 1)[1])
        for line in messages
        if "ntruders" in line
    }
    attached.model.delete_adapter("intruder_reduced")
    METHODS["lora"].detach(attached)
    assert ours == theirs
    assert max(ours.values()) >= 2


def test_what_did_not_move_has_no_row_and_a_vector_has_no_spectrum(base) -> None:
    attached = METHODS["full"].attach(base, MethodSpec("full", "full", lr=1e-3), 0)
    with torch.no_grad():
        for name, parameter in attached.trainable.items():
            if name.endswith(("layers.0.mlp.up_proj.weight", "model.norm.weight", "embed_tokens.weight")):
                parameter.mul_(1.25)
    rows = {update.name: job._row(update, update.name.endswith("up_proj.weight")) for update in iter_updates(attached)}
    METHODS["full"].detach(attached)
    moved = {name: row for name, row in rows.items() if row is not None}
    assert len(moved) == 3
    for name, row in moved.items():
        assert row["relative_norm"] == pytest.approx(0.25, rel=1e-5)
        assert ("spectral_norm" in row) == name.endswith("up_proj.weight")
        assert (row["columns"] is None) == (name == "model.norm.weight")
    scaled = next(row for name, row in moved.items() if name.endswith("up_proj.weight"))
    assert (scaled["intruders"], scaled["angle_largest_degrees"]) == (0, pytest.approx(0, abs=1e-3))


def test_a_large_model_is_sampled_by_layers_and_says_which() -> None:
    from peftodyssey.model_shape import LinearShape, ModelShape

    def sizes(width: int, layers: int) -> ModelShape:
        linears = tuple(LinearShape(f"layers.{layer}.up", 4 * width, width, False, layer) for layer in range(layers))
        return ModelShape("llama", 10, width, layers, 8, 8, 64, 4 * width, 99, True, True, linears, 10, 0, 1, 1)

    assert job.decomposed(sizes(768, 12))[1] == tuple(range(12))
    names, layers = job.decomposed(sizes(8192, 80))
    assert (layers[0], layers[-1], len(layers)) == (0, 79, 3)
    assert names == {f"layers.{layer}.up.weight" for layer in layers}


def test_a_gpu_without_room_leaves_it_to_the_cpu(base) -> None:
    attached = METHODS["lora"].attach(base, MethodSpec("lora", "lora", rank=2, alpha=4.0, targets=("q_proj",)), 0)
    update = next(iter(iter_updates(attached)))
    METHODS["lora"].detach(attached)
    devices = []

    def act(device: str):
        devices.append(device)
        if not device:
            raise torch.OutOfMemoryError
        return {"matrix": update.to(device).name}

    assert job._with_cpu_fallback(act) == {"matrix": update.name}
    assert devices == ["", "cpu"]


def test_the_folder_is_committed_with_its_rule_and_holds_what_a_dense_decomposition_finds(tmp_path: Path) -> None:
    _, _, root = go(tmp_path, ASKED.replace("{method: full, lr: 1e-3}, ", ""), "out")
    (folder,) = (root / "geometry").iterdir()
    written = manifest.read(folder)
    assert written is not None
    assert (written["facts"]["top"], written["facts"]["cosine"], written["facts"]["refused"]) == (10, 0.5, {})
    assert list(written["files"]) == ["geometry.parquet"]
    _agree_with_dense(root)


def _agree_with_dense(root: Path) -> None:
    """Every number of the LoRA cell's first matrix, from the stored adapter and the stored base by numpy alone."""
    entry = next(folder for folder in (root / layout.CELLS).iterdir() if "-lora-" in folder.name)
    row = parquet.read(root / "geometry" / entry.name / "geometry.parquet").to_pylist()[0]
    stem = "base_model.model." + row["matrix"].removesuffix(".weight")
    adapter = load_file(entry / layout.ADAPTER / "adapter_model.safetensors")
    change = 2.0 * (adapter[f"{stem}.lora_B.weight"].double() @ adapter[f"{stem}.lora_A.weight"].double()).numpy()
    folder = assets.unpack_model("odyssey-3m", "annealed-64M")
    weights = load_file(folder / "model.safetensors")
    weight = weights[row["matrix"]].float().double().numpy()
    values = np.linalg.svd(change, compute_uv=False)[:2]
    before, tuned = (np.linalg.svd(matrix)[0] for matrix in (weight, weight + change))
    shares = values / values.sum()
    assert row["update_norm"] == pytest.approx(np.linalg.norm(change), rel=1e-6)
    assert row["relative_norm"] == pytest.approx(np.linalg.norm(change) / np.linalg.norm(weight), rel=1e-6)
    assert row["spectral_norm"] == pytest.approx(values[0], rel=1e-6)
    assert row["stable_rank"] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-6)
    assert row["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert row["intruders"] == (np.abs(before.T @ tuned[:, :10]).max(axis=0) < 0.5).sum()
    angles = np.degrees(np.arccos(np.clip(np.linalg.svd(before[:, :10].T @ tuned[:, :10], compute_uv=False), 0, 1)))
    assert row["angle_largest_degrees"] == pytest.approx(angles.max(), rel=1e-3, abs=1e-3)
