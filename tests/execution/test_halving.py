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
  - {method: full, lr: {tune: [1e-5, 1e-3]}}
  - {method: lora, rank: 4, lr: 1e-2, label: fixed}
train: {budget: 4 steps, seq_len: 64, batch_tokens: 128, eval_at: [50%, 75%, 100%], select: {halving: 2}}
score: {context: 64, stride: 48, tokens: 1k}
measure: [degradation]
"""
SAME = ("cell", "status", "nll_after", "valid_nll_after", "steps", "tokens", "selected", "lr_edge")


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
    assert len(stopped) == 3  # of 3 learning rates 2 go on, of these 1; of the other 2 one
    assert ("lora r=2", 1e-5) in stopped
    assert ("full", 1e-5) in stopped
    assert "stopped at 50% of its budget" in stopped["lora r=2", 1e-5]["reason"]
    assert stopped["lora r=2", 1e-5]["nll_after"] is None
    assert rows["fixed", 1e-2]["status"] == "done"
    assert printed.count("stopped  ") == 3
    assert "3 of 6 cells were stopped early" in (folder / "out/report/summary.md").read_text()
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
    assert "training 2 lora cells" in printed
    for key, row in rows.items():
        if row["status"] == "done":
            assert full[key]["nll_after"] == row["nll_after"]


@pytest.mark.slow
def test_a_longer_grid_is_judged_anew(tmp_path: Path) -> None:
    first, _ = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-5, 1e-4]}}]")
    assert {key[1]: row["status"] for key, row in first.items()} == {1e-5: "stopped", 1e-4: "done"}
    (survivor,) = (folder for folder in (tmp_path / "out/cells").iterdir() if "lr0.0001" in folder.name)
    (survivor / "manifest.json").unlink()
    again, printed = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-5, 1e-4]}}]")
    assert {key[1]: row["status"] for key, row in again.items()} == {1e-5: "stopped", 1e-4: "done"}
    assert "stopped:" not in printed  # it was before
    second, printed = run(tmp_path, "out", "methods=[{method: full, lr: {tune: [1e-5, 1e-4, 1e-7, 1e-8]}}]")
    assert printed.count("stopped  ") == 3
    states = {key[1]: row["status"] for key, row in second.items()}
    assert states[1e-7] == states[1e-8] == "stopped"
    assert states[1e-4] == "done"
    assert "at 75%" in second["full", 1e-5]["reason"]  # of four it is the second, and trails at the next point


def plan(folder: Path, *settings: str) -> Plan:
    return api.plan(api.load(micro.write(folder, RECIPE), list(settings)), device="cpu")


def test_only_tuned_groups_compete(tmp_path: Path) -> None:
    groups = halving.tuning_groups(plan(tmp_path).cells)
    assert sorted(len(group) for group in groups) == [2, 3]
    assert {halving.shares(group) for group in groups} == {(0.5, 0.75)}
    assert halving.tuning_groups(plan(tmp_path, "train.select=null").cells) == []


def test_what_cannot_be_halved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is none"):
        api.load(micro.write(tmp_path, RECIPE), ["train.eval_at=[100%]"])
    with pytest.raises(RecipeError, match="TRL"):
        api.load(micro.write(tmp_path, RECIPE), ["train.engine=trl"])
    with pytest.raises(RecipeError, match=r"at least 2|greater than or equal to 2"):
        api.load(micro.write(tmp_path, RECIPE), ["train.select.halving=1"])
    quiet = api.load(micro.write(tmp_path, RECIPE), ["methods=[{method: full, lr: 1e-4}]"])
    assert [warning.key for warning in quiet.warnings] == ["train.select"]
