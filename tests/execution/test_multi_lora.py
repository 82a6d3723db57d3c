"""Law 3 for a whole run: cells trained together give the results of cells trained alone, and fail and resume alone."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.jobs import group_record
from peftodyssey.plan.multi_lora_groups import group_cells, left_over, why_not_batched
from peftodyssey.report.multi_lora_output import group_lines
from peftodyssey.store import layout, manifest

RECIPE = """\
version: 1
name: grid
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
general: [bundled/wiki_general]
methods:
  - {method: lora, rank: [2, 8], lr: {tune: [1e-3, 1e-2]}, dropout: 0.1}
  - {method: qlora, rank: [2, 4], lr: 1e-2}
  - {method: lora, rank: 2, lr: 1e-2, dora: true, label: dora}
  - {method: full, lr: 1e-4}
train: {budget: 4 steps, seq_len: 64, batch_tokens: 128, eval_at: [50%, 100%]}
score: {context: 64, stride: 48, tokens: 1k}
"""
SAME = ("label", "rank", "lr", "tokens", "steps", "selected", "status", "trainable_params")
CLOSE = ("nll_before", "nll_after", "valid_nll_after", "general_nll_after", "delta_nll")


def run(folder: Path, out: str, *settings: str, text: str = RECIPE) -> tuple[Path, str]:
    printed = io.StringIO()
    api.run(api.load(micro.write(folder, text), list(settings)), folder / out, console=Console(file=printed, width=200))
    return folder / out, printed.getvalue()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with multi-LoRA, and a copy of it in which the cells that trained together have trained alone."""
    folder = tmp_path_factory.mktemp("grid")
    together, printed = run(folder, "together")
    assert "4 lora cells" in printed
    assert "2 qlora cells" in printed
    alone = folder / "alone"
    shutil.copytree(together, alone)
    grouped = {row["cell"] for row in rows_of(together) if row["multi_lora_size"] > 1}
    for cell in (alone / layout.CELLS).iterdir():
        if manifest.read(cell)["hash"][:16] in grouped:
            shutil.rmtree(cell)
    for scores in (alone / layout.SCORES).iterdir():
        if (manifest.read(scores)["identity"]["cell"] or "")[:16] in grouped:
            shutil.rmtree(scores)
    return together, run(folder, "alone", "train.multi_lora=off")[0]


def rows_of(out: Path) -> list[dict]:
    return sorted(api.open(out).results.to_pylist(), key=lambda row: (row["label"], row["lr"]))


def test_the_results_are_those_of_cells_trained_alone(both: tuple[Path, Path]) -> None:
    together, alone = map(rows_of, both)
    assert len(together) == 8
    for one, other in zip(together, alone, strict=True):
        assert [one[name] for name in SAME] == [other[name] for name in SAME]
        assert [one[name] for name in CLOSE] == pytest.approx([other[name] for name in CLOSE], abs=2e-5)
        assert one["cell"] == other["cell"]
    points = [
        sorted(
            (p["cell"], p["step"], p["split"], p["corpus"], p["nll_nats"])
            for p in api.open(out).learning_curves.to_pylist()
        )
        for out in both
    ]
    for one, other in zip(*points, strict=True):
        assert one[:4] == other[:4]
        assert one[4] == pytest.approx(other[4], abs=2e-5)


def test_manifests_name_the_cells_that_trained_together(both: tuple[Path, Path]) -> None:
    labels = {row["cell"]: row["label"] for row in rows_of(both[0])}
    for folder in (both[0] / layout.CELLS).iterdir():
        written = manifest.read(folder)
        label, facts = labels[written["hash"][:16]], written["facts"]
        size = 1 if label in ("full", "dora") else 2 if label.startswith("qlora") else 4
        assert facts["multi_lora_size"] == size, label
        if size > 1:
            assert len(facts["multi_lora"]) == size
            assert written["hash"][:16] in facts["multi_lora"]
    sizes = {row["label"]: row["multi_lora_size"] for row in rows_of(both[1])}
    assert set(sizes.values()) == {1}


def test_members_are_scored_in_one_pass(both: tuple[Path, Path]) -> None:
    sizes = {}
    for out in both:
        columns = [manifest.read(folder)["facts"] for folder in (out / layout.SCORES).iterdir()]
        sizes[out] = sorted(facts.get("together", 1) for facts in columns)
    texts = 3  # test, validation and general
    assert (
        sizes[both[0]] == [1] * texts * (2 + 2) + [2] * texts * 2 + [4] * texts * 4
    )  # two bases, dora and full are alone
    assert set(sizes[both[1]]) == {1}


def test_one_cell_deleted_is_the_only_one_trained_again(both: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(both[0], out)
    cell = next(row["cell"] for row in rows_of(out) if row["label"].startswith("lora") and row["rank"] == 8)
    gone = next(folder for folder in (out / layout.CELLS).iterdir() if manifest.read(folder)["hash"].startswith(cell))
    before = pq.read_table(gone / layout.LOG).to_pylist()
    times = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/manifest.json") if p.parent != gone}
    shutil.rmtree(gone)
    api.run(micro.write(tmp_path, RECIPE), out, console=Console(quiet=True))
    assert {p: p.stat().st_mtime_ns for p in times} == times
    again = pq.read_table(gone / layout.LOG).to_pylist()
    assert [r["loss_nats"] for r in again] == pytest.approx([r["loss_nats"] for r in before], rel=1e-5)
    assert manifest.read(gone)["facts"]["multi_lora_size"] == 1


@pytest.mark.slow
def test_a_member_that_diverges_fails_alone(tmp_path: Path) -> None:
    text = RECIPE.replace("tune: [1e-3, 1e-2]", "tune: [1e-3, 1e30]").replace("qlora, rank: [2, 4]", "qlora, rank: 4")
    out, printed = run(tmp_path, "out", "train.warmup=0", text=text)
    rows = rows_of(out)
    assert {row["status"] for row in rows if row["lr"] == 1e30} == {"failed"}
    assert {row["status"] for row in rows if row["lr"] != 1e30} == {"done"}
    assert "learning rate" in printed


def test_who_trains_alone_and_why(tmp_path: Path) -> None:
    plan = api.plan(micro.write(tmp_path, RECIPE), device="cpu")
    reasons = {task.cell.method.label: why_not_batched(task) for task in plan.cells}
    assert reasons["full"] == "full is not LoRA"
    assert reasons["dora"].startswith("DoRA")
    assert [len(group) for group in group_cells(plan, plan.cells)] == [4, 2]
    lines = list(group_lines(plan))
    assert re.findall(r"(\d+) (q?lora) cells", lines[0]) == [("4", "lora"), ("2", "qlora")]
    assert len(lines) == 2
    assert "dora" in lines[1]
    off = api.plan(api.load(micro.write(tmp_path, RECIPE), ["train.multi_lora=off"]), device="cpu")
    assert group_cells(off, off.cells) == []
    two = api.plan(api.load(micro.write(tmp_path, RECIPE), ["train.multi_lora=2"]), device="cpu")
    assert [len(group) for group in group_cells(two, two.cells)] == [2, 2, 2]
    assert [task.hash for task in two.cells] == [task.hash for task in plan.cells]
    three = api.plan(api.load(micro.write(tmp_path, RECIPE), ["train.multi_lora=3"]), device="cpu")
    alone = left_over(three.cells, group_cells(three, three.cells))
    assert [task.cell.method.method for task in alone] == ["lora"]
    assert f"1 more trains alone ({alone[0].cell.method.label})" in next(group_lines(three))
    assert left_over(plan.cells, group_cells(plan, plan.cells)) == []


def test_what_is_left_of_a_group_that_was_begun_trains_as_that_group(tmp_path: Path) -> None:
    recipe = micro.write(tmp_path, RECIPE)
    plan = api.plan(recipe, device="cpu")
    four, two = group_cells(plan, plan.cells)
    group_record.begin(four, 1.0, tmp_path)
    left = [task for task in plan.cells if task not in four[:3]]
    assert group_record.groups(plan, left, 1.0, tmp_path) == [four[3:], two]
    assert group_record.groups(plan, left, 0.5, tmp_path) == [two], "of another round of successive halving"
    assert group_record.begin(four[3:], 1.0, tmp_path).members == tuple(task.short_hash for task in four)
    assert group_record.begin(four[2:], 0.5, tmp_path).members == tuple(task.short_hash for task in four[2:])
    with pytest.raises(RuntimeError), group_record.recorded(two, 1.0, tmp_path):
        raise RuntimeError("these cannot train together")
    assert [group_record.read(tmp_path / task.folder) for task in two] == [None, None]
    off = api.plan(api.load(recipe, ["train.multi_lora=off"]), device="cpu")
    assert group_record.groups(off, off.cells, 1.0, tmp_path) == []
