"""Successive halving stops cells that are behind; those that continue end with the numbers of a run without it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.errors import RecipeError
from peftodyssey.execution import halving
from peftodyssey.execution.status import status
from peftodyssey.plan.tasks import Plan

RECIPE = """\
version: 1
name: halving
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
general: []
methods:
  - {method: lora, rank: 2, lr: {tune: [1e-5, 1e-3, 1e-2]}}
  - {method: full, lr: {tune: [1e-5, 1e-4, 1e-3]}}
  - {method: lora, rank: 4, lr: 1e-2, label: fixed}
train: {budget: 4 steps, seq_len: 64, batch_tokens: 128, eval_at: [50%, 75%, 100%], schedule: wsd, select: {halving: 2}}
score: {context: 64, stride: 48, tokens: 1k}
measure: [degradation]
"""
SAME = ("cell", "status", "nll_after", "valid_nll_after", "steps", "tokens", "selected")


def run(folder: Path, out: str, *settings: str) -> tuple[dict[tuple[str, float], dict], str]:
    printed = io.StringIO()
    api.run(
        api.load(micro.write(folder, RECIPE), list(settings)), folder / out, console=Console(file=printed, width=200)
    )
    return {(row["label"], row["lr"]): row for row in api.open(folder / out).results.to_pylist()}, printed.getvalue()


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    folder = tmp_path_factory.mktemp("halving")
    return (folder, *run(folder, "out"))


def test_who_trails_is_stopped_and_says_when_and_why(halved: tuple[Path, dict, str]) -> None:
    folder, rows, printed = halved
    stopped = {key: row for key, row in rows.items() if row["status"] == "stopped"}
    assert set(stopped) == {("lora r=2", 1e-5), ("full", 1e-5)}  # of 3 learning rates 2 go on: the best and another
    assert "stopped at 50% of its budget" in stopped["lora r=2", 1e-5]["reason"]
    assert stopped["lora r=2", 1e-5]["nll_after"] is None
    assert rows["fixed", 1e-2]["status"] == "done"
    assert printed.count("stopped  ") == 2
    assert "2 of 7 cells were stopped early" in (folder / "out/report/summary.md").read_text()
    assert {cell.state for cell in status(folder / "out")} == {"done", "stopped"}


@pytest.mark.slow
def test_survivors_end_where_they_end_without_halving(halved: tuple[Path, dict, str]) -> None:
    folder, rows, _ = halved
    alone, _ = run(folder, "whole", "train.select=null", "train.multi_lora=off")
    for key, row in rows.items():
        if row["status"] == "done":
            for name in SAME:
                close = (
                    pytest.approx(alone[key][name], abs=2e-5)
                    if isinstance(alone[key][name], float)
                    else alone[key][name]
                )
                assert row[name] == close, (key, name)
    assert {key[1] for key, row in rows.items() if row["selected"] and key[0] == "lora r=2"} == {
        key[1] for key, row in alone.items() if row["selected"] and key[0] == "lora r=2"
    }


def test_the_same_again_does_nothing_and_without_select_the_stopped_go_on(halved: tuple[Path, dict, str]) -> None:
    folder, rows, _ = halved
    again, printed = run(folder, "out")
    assert "[" not in printed
    assert {k: r["status"] for k, r in again.items()} == {k: r["status"] for k, r in rows.items()}
    full, printed = run(folder, "out", "train.select=null")
    assert {row["status"] for row in full.values()} == {"done"}
    for key, row in rows.items():
        if row["status"] == "done":
            assert full[key]["nll_after"] == row["nll_after"]


@pytest.mark.slow
def test_a_longer_grid_is_judged_anew(tmp_path: Path) -> None:
    first, _ = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-6, 1e-5, 1e-4]}}]")
    states = {1e-6: "stopped", 1e-5: "done", 1e-4: "done"}
    assert {key[1]: row["status"] for key, row in first.items()} == states
    (survivor,) = (folder for folder in (tmp_path / "out/cells").iterdir() if "lr0.0001" in folder.name)
    (survivor / "manifest.json").unlink()
    again, printed = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-6, 1e-5, 1e-4]}}]")
    assert {key[1]: row["status"] for key, row in again.items()} == states
    assert "stopped:" not in printed  # it was before
    longer, _ = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-6, 1e-5, 1e-4, 1e-8, 1e-7, 1e-3]}}]")
    assert {key[1]: row["status"] for key, row in longer.items()} == {
        1e-8: "stopped",
        1e-7: "stopped",
        1e-6: "stopped",
        1e-5: "done",  # finished before, although it trails now
        1e-4: "done",
        1e-3: "done",
    }


def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: dict[tuple[float, int], float]) -> list[float]:
    """The rates that are stopped at the first point, with these validation losses by rate and seed."""
    rates = sorted({lr for lr, _ in losses})
    cells = plan(tmp_path, f"methods=[{{method: full, lr: {{tune: {rates}}}}}]", "seeds=[0, 1]").cells
    (group,) = halving.tuning_groups(cells)
    by_folder = {task.folder: losses[task.cell.method.lr, task.cell.seed] for task in group}
    found = {folder: [loss] if loss == loss else [] for folder, loss in by_folder.items()}
    monkeypatch.setattr(halving.eval_callback, "validation", lambda root, task: found[task.folder])
    for task in group:
        (tmp_path / "out" / task.folder).mkdir(parents=True, exist_ok=True)
    return sorted(task.cell.method.lr for task in halving.prune_trailing(group, 0, tmp_path / "out"))


def test_seeds_are_pooled_and_the_neighbours_of_the_best_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {1e-5: 2.0, 1e-4: 1.6, 1e-3: 1.0, 1e-2: 1.9, 1e-1: 3.0}
    losses = {(lr, seed): loss + 0.1 * seed for lr, loss in shape.items() for seed in (0, 1)}
    assert marked(tmp_path, monkeypatch, losses) == [1e-5, 1e-5, 1e-1, 1e-1]
    losses[1e-5, 0] = 0.5  # best in one seed, and not in the mean of both
    assert marked(tmp_path, monkeypatch, losses) == [1e-1, 1e-1]
    losses[1e-4, 1] = float("nan")  # failed before it was evaluated: it trails, but a neighbour of the best goes on
    assert marked(tmp_path, monkeypatch, losses) == [1e-1, 1e-1]
    losses[1e-2, 0] = losses[1e-2, 1] = float("nan")
    assert marked(tmp_path, monkeypatch, losses) == [1e-1, 1e-1]


def plan(folder: Path, *settings: str) -> Plan:
    return api.plan(api.load(micro.write(folder, RECIPE), list(settings)), device="cpu")


def test_only_tuned_groups_compete(tmp_path: Path) -> None:
    groups = halving.tuning_groups(plan(tmp_path).cells)
    assert sorted(len(group) for group in groups) == [3, 3]
    assert [halving.points(group) for group in groups] == [{0: 0.5, 1: 0.75}] * 2
    two_seeds = halving.tuning_groups(plan(tmp_path, "seeds=[0, 1]").cells)
    assert sorted(len(group) for group in two_seeds) == [6, 6]
    late = plan(tmp_path, "train.eval_at=[2%, 50%, 90%]", "train.warmup=10%").cells
    assert {tuple(halving.points(group).items()) for group in halving.tuning_groups(late)} == {((1, 0.5),)}
    assert halving.tuning_groups(plan(tmp_path, "train.select=null").cells) == []


def test_what_cannot_be_halved_is_refused(tmp_path: Path) -> None:
    for schedule in ("cosine", "linear"):
        with pytest.raises(RecipeError, match="a high rate is behind until it has decayed"):
            api.load(micro.write(tmp_path, RECIPE), [f"train.schedule={schedule}"])
    with pytest.raises(RecipeError, match="no point of eval_at lies where wsd is at its peak"):
        api.load(micro.write(tmp_path, RECIPE), ["train.eval_at=[1%, 90%]"])
    assert api.load(micro.write(tmp_path, RECIPE), ["train.eval_at=90%", "train.schedule=constant"]).warnings == ()
    with pytest.raises(RecipeError, match="there is none"):
        api.load(micro.write(tmp_path, RECIPE), ["train.eval_at=[100%]"])
    with pytest.raises(RecipeError, match="TRL"):
        api.load(micro.write(tmp_path, RECIPE), ["train.engine=trl"])
    with pytest.raises(RecipeError, match=r"at least 2|greater than or equal to 2"):
        api.load(micro.write(tmp_path, RECIPE), ["train.select.halving=1"])
    quiet = api.load(micro.write(tmp_path, RECIPE), ["methods=[{method: full, lr: 1e-4}]"])
    assert [warning.key for warning in quiet.warnings] == ["train.select"]
