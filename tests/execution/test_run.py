"""A whole run on real text with a real model: finished, repeated, filtered, refreshed, failed, kept."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.errors import DoesNotFit, InputError, StoreError
from peftodyssey.execution.launch import Options
from peftodyssey.execution.outcome import Outcome
from peftodyssey.measures.multiple_choice import collect as collect_tasks
from peftodyssey.store import layout, lock, manifest, parquet, sealed, tables


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    api.run(micro.write(folder), folder / "out", console=quiet())
    return folder / "out"


@pytest.fixture(scope="module")
def lora_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run of the one LoRA cell of the recipe."""
    folder = tmp_path_factory.mktemp("lora")
    options = Options(only={"method": "lora", "rank": "2"})
    _, outcome, root = api.run_plan(api.plan(micro.write(folder)), folder / "out", options=options, console=quiet())
    return root, outcome


@pytest.fixture(scope="module")
def full_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the two cells of full fine-tuning that keeps the weights of the better one."""
    folder = tmp_path_factory.mktemp("full")
    options = Options(keep="best", only={"method": "full"})
    _, _, root = api.run_plan(api.plan(micro.write(folder)), folder / "out", options=options, console=quiet())
    return root


def quiet() -> Console:
    return Console(quiet=True)


def results(root: Path) -> dict[str, dict[str, Any]]:
    """The rows of finished cells by cell, without what is measured of time and memory."""
    rows = api.open(root).results.drop_columns(list(tables.MEASURED)).to_pylist()
    return {row["cell"]: row for row in rows if row["status"] == "done"}


def copy_inputs(root: Path, out: Path) -> None:
    """The indexes and base scores of a finished run, so that another run need not make them again."""
    shutil.copytree(root / "corpora", out / "corpora")
    for scores in (root / layout.SCORES).iterdir():
        if manifest.read(scores)["identity"]["cell"] is None:
            shutil.copytree(scores, out / layout.SCORES / scores.name)


def test_every_cell_is_done_and_every_promised_column_filled(done: Path) -> None:
    rows = api.open(done).results.to_pylist()
    assert [row["status"] for row in rows] == ["done"] * micro.CELLS
    ends = {f"{stem}_{end}" for stem in ("delta", "forgetting") for end in ("lo", "hi")}  # 16 documents: no interval
    geometry_columns = {
        "update_norm_relative",
        "effective_rank_mean",
        "intruder_dimensions",
        "decomposed_layers",
    }  # not asked for
    constraint_columns = {
        "l2_sp",
        "norm_ball",
        "replay",
        "early_stop",
        "stopped_at_step",
    }  # constraints that no cell has
    divergence_columns = {
        "kl_target",
        "kl_general",
        "changed_guesses_target",
        "changed_guesses_general",
        "forgetting_slope",
        "forgetting_curvature",
    }  # not asked for
    quantised_columns = {"nll_quantised", "general_nll_quantised", "delta_storage", "forgetting_storage"}
    optional = (
        {"rank", "alpha", "targets", "quant", "lr_edge", *quantised_columns}
        | ends
        | set(collect_tasks.RESULT_COLUMNS)
        | geometry_columns
        | divergence_columns
        | constraint_columns
    )
    for row in rows:
        empty = {name for name, value in row.items() if value is None}
        assert empty <= optional, empty
        assert math.isfinite(row["delta_nll"])
        assert "too few documents" in row["reason"]
        assert row["delta_nll"] == pytest.approx(row["nll_after"] - row["nll_before"], abs=1e-9)
        assert row["ppl_after"] == pytest.approx(math.exp(row["nll_after"]))
        assert {row[name] is not None for name in quantised_columns} == {row["method"] == "qlora"}
    assert sum(row["selected"] for row in rows) == 3


def test_before_is_the_unquantised_base_for_every_method(done: Path) -> None:
    rows = api.open(done).results.to_pylist()
    assert len({row["nll_before"] for row in rows}) == 1
    quantised = next(row for row in rows if row["method"] == "qlora")
    assert quantised["nll_quantised"] > quantised["nll_before"]


def test_points_hold_the_way_and_the_end(done: Path) -> None:
    points = api.open(done).learning_curves.to_pylist()
    of_one = [p for p in points if p["cell"] == points[0]["cell"]]
    assert {p["step"] for p in of_one} == {2, 4}
    assert {p["split"] for p in of_one if p["step"] == 2} == {"valid", "test"}
    end = {p["corpus"]: p["nll_nats"] for p in of_one if p["step"] == 4 and p["split"] == "test"}
    row = next(r for r in api.open(done).results.to_pylist() if r["cell"] == of_one[0]["cell"])
    assert end["arxiv_cs.CL"] == pytest.approx(row["nll_after"], abs=1e-9)


def test_again_does_nothing(done: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.rglob("manifest.json")}
    run, outcome, _ = api.run_plan(api.plan(micro.write(tmp_path)), done, console=quiet())
    assert (outcome.done, outcome.skipped, outcome.failed) == (0, micro.CELLS, {})
    assert {p: p.stat().st_mtime_ns for p in done.rglob("manifest.json")} == before
    assert run is not None


def test_manifests_name_their_files_and_weights_were_dropped(done: Path) -> None:
    for folder in (done / layout.CELLS).iterdir():
        written = manifest.read(folder)
        assert written is not None
        assert manifest.damage(folder, afresh=True) == {}
        full = "-full-" in folder.name
        assert written["facts"]["weights"] == ("dropped" if full else "kept")
        assert (folder / layout.WEIGHTS).exists() is False
        assert (folder / layout.ADAPTER).exists() is not full
        assert not (folder / layout.CHECKPOINT).exists()


def test_a_damaged_cell_is_done_again(done: Path, tmp_path: Path) -> None:
    folder = next(f for f in (done / layout.CELLS).iterdir() if "-lora-" in f.name)
    before = {r["cell"]: r["nll_after"] for r in api.open(done).results.to_pylist()}
    (folder / layout.ADAPTER / "adapter_model.safetensors").unlink()
    _, outcome, _ = api.run_plan(api.plan(micro.write(tmp_path)), done, console=quiet())
    assert outcome.done == 1
    assert {r["cell"]: r["nll_after"] for r in api.open(done).results.to_pylist()} == before


def test_a_lost_column_of_an_adapter_is_scored_without_training(done: Path, tmp_path: Path) -> None:
    entry = next(e for e in api.open(done).cells if e["coordinates"]["method"] == "lora")
    before = (done / entry["folder"] / "manifest.json").read_bytes()
    manifest.prepare_dir(done / entry["scores"]["test"]["after"])
    _, outcome, _ = api.run_plan(api.plan(micro.write(tmp_path)), done, console=quiet())
    assert outcome.done == 1
    assert (done / entry["folder"] / "manifest.json").read_bytes() == before


def test_only_runs_what_is_named(lora_alone: tuple[Path, Outcome]) -> None:
    root, outcome = lora_alone
    states = {row["method"]: row["status"] for row in api.open(root).results.to_pylist()}
    assert outcome.done == 1
    assert states == {"full": "pending", "lora": "done", "qlora": "pending"}


def test_other_versions_are_retrained_only_when_asked(done: Path, tmp_path: Path) -> None:
    before = results(done)
    folder = next(f for f in (done / layout.CELLS).iterdir() if "-qlora-" in f.name)
    written = sealed.read(folder / "manifest.json")
    assert written is not None
    written["facts"]["versions"]["peft"] = "0.0.1"
    sealed.write(folder / "manifest.json", written)
    plan = api.plan(micro.write(tmp_path))
    assert api.run_plan(plan, done, console=quiet())[1].done == 0
    assert api.run_plan(plan, done, options=Options(refresh=True), console=quiet())[1].done == 1
    assert results(done) == before


def test_a_failing_cell_is_recorded_and_the_others_go_on(done: Path, tmp_path: Path) -> None:
    copy_inputs(done, tmp_path / "out")
    text = micro.RECIPE.replace("{method: full, lr: {tune: [1e-4, 1e-3]}}", "{method: full, lr: 1e+30}")
    text = text.replace("  - {method: qlora, rank: 2, lr: 1e-2}\n", "")
    _, outcome, root = api.run_plan(api.plan(micro.write(tmp_path, text)), tmp_path / "out", console=quiet())
    rows = {row["method"]: row for row in api.open(root).results.to_pylist()}
    assert outcome.done == 1
    assert len(outcome.failed) == 1
    assert rows["full"]["status"] == "failed"
    assert "lr" in rows["full"]["reason"]
    assert rows["lora"]["status"] == "done"


@pytest.mark.slow
def test_keep_best_keeps_the_selected_full_weights_alone(full_alone: Path) -> None:
    run = api.open(full_alone)
    rows = {row["cell"]: row for row in run.results.to_pylist()}
    has_weights = {entry["cell"]: (full_alone / entry["folder"] / layout.WEIGHTS).is_dir() for entry in run.cells}
    finished = {cell for cell, row in rows.items() if row["status"] == "done"}
    assert len(finished) == 2
    assert {cell: has_weights[cell] for cell in finished} == {cell: rows[cell]["selected"] for cell in finished}


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    plan = api.plan(micro.write(tmp_path), memory="1MiB")
    with pytest.raises(DoesNotFit, match="GiB"):
        api.run_plan(plan, tmp_path / "out", console=quiet())
    assert not (tmp_path / "out").exists()


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    with lock.exclusive(tmp_path / "out"), pytest.raises(StoreError, match="in use"):
        api.run_plan(api.plan(micro.write(tmp_path)), tmp_path / "out", console=quiet())


def test_status_counts_cells(done: Path) -> None:
    from peftodyssey.execution.status import status

    assert [cell.state for cell in status(done)] == ["done"] * micro.CELLS
    with pytest.raises(StoreError, match="no results"):
        status(done / "nowhere")


def test_export_is_loaded_by_plain_peft_and_is_not_the_base(done: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from peftodyssey import assets

    to = api.export(done, "method=lora,rank=2", to=tmp_path / "adapter").folder
    ids = torch.arange(1, 65)[None]
    base = AutoModelForCausalLM.from_pretrained(assets.unpack_model("odyssey-3m", "annealed-64M"), dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, to)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(
            api.export(done, "method=lora,rank=2", to=tmp_path / "merged", merge=True).folder, dtype=torch.float32
        )(ids).logits
    assert not torch.allclose(plain, adapted, atol=1e-3)
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    card = (to / "README.md").read_text()
    row = next(r for r in api.open(done).results.to_pylist() if r["method"] == "lora")
    assert f"{row['nll_after']:.4f}" in card
    with pytest.raises(InputError, match="not empty"):
        api.export(done, "method=lora,rank=2", to=tmp_path / "adapter")
    with pytest.raises(StoreError, match="deleted"):
        api.export(done, "method=full", to=tmp_path / "full")


def test_measured_columns_are_the_only_ones_that_two_runs_may_differ_in(
    done: Path, lora_alone: tuple[Path, Outcome], full_alone: Path
) -> None:
    again = results(lora_alone[0]) | results(full_alone)
    assert len(again) == 3
    assert again == {cell: row for cell, row in results(done).items() if cell in again}


@pytest.mark.slow
def test_sft_scores_answers_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} and {n}?", "completion": f" It is {2 * n}, as anybody knows."} for n in range(200)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = micro.RECIPE.replace("bundled/arxiv_cs.CL", "{name: sums, path: sums.jsonl}").replace(
        "eval_at", "objective: sft, eval_at"
    )
    run = api.run(
        micro.write(tmp_path, text.replace("{tune: [1e-4, 1e-3]}", "1e-3")), tmp_path / "out", console=quiet()
    )
    row = run.results.to_pylist()[0]
    evidence = run.nll(row["cell"])
    index = parquet.read(run.folder / run.cells[0]["scores"]["test"]["index"] / layout.INDEX)
    answers = index["trained"].to_numpy()
    assert 0 < answers.sum() < len(answers)
    assert np.array_equal(~np.isnan(evidence["after"]), answers)
    assert row["test_tokens"] == answers.sum()
    assert row["nll_after"] == pytest.approx(float(evidence["after"][answers].mean(dtype=float)), abs=1e-6)


def test_an_edited_recipe_keeps_what_was_done_and_forgets_what_never_was(
    lora_alone: tuple[Path, Outcome], tmp_path: Path
) -> None:
    shutil.copytree(lora_alone[0], tmp_path / "out")
    edited = api.plan(
        micro.write(tmp_path, micro.RECIPE.replace("lr: 1e-2}\n  - {method: qlora", "lr: 2e-2}\n  - {method: qlora"))
    )
    api.run_plan(edited, tmp_path / "out", options=Options(only={"method": "lora"}), console=quiet())
    rows = api.open(tmp_path / "out").results.to_pylist()
    assert sorted((row["lr"], row["status"]) for row in rows if row["method"] == "lora") == [
        (0.01, "done"),
        (0.02, "done"),
    ]
    assert sum(row["status"] == "pending" for row in rows) == 3
