"""`plan RECIPE --probe`: every shape is tried for real, what was measured is kept and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.memory import probes
from peftodyssey.plan import probe_results
from peftodyssey.plan.time_estimate import estimate_time
from peftodyssey.report.multi_lora_output import group_lines


@pytest.fixture(autouse=True)
def own_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "folder", lambda: tmp_path / "probes")


def quiet() -> Console:
    return Console(quiet=True)


def test_a_probe_tries_each_shape_once_and_corrects_the_plan(tmp_path: Path) -> None:
    recipe = micro.write(tmp_path)
    before = api.plan(recipe)
    assert estimate_time(before).seconds is None
    assert estimate_time(before).unknown_cells == len(before.cells)

    after, tried, _ = api.probe(recipe, console=quiet())
    assert sum(one.cells for one in tried) == len(before.cells)
    assert len(tried) == len({(t.cell.model, t.cell.method.method, t.step) for t in before.cells}) < len(before.cells)
    for one in tried:
        assert one.reason == ""
        assert len(one.probe.step_seconds) == probes.STEPS >= 6
        assert min(one.probe.step_seconds) > 0
        assert one.probe.saved_bytes > 0
        assert one.probe.scored_tokens_per_second > 0
    for task in after.cells:
        known = probe_results.load(task, after.device)
        assert task.memory.peak_reserved_bytes == known.peak_reserved_bytes
        assert sum(term.size_bytes for term in task.memory.terms) == task.memory.device_bytes
    estimate = estimate_time(after)
    assert 0 < estimate.low_seconds < estimate.seconds < estimate.high_seconds

    _, again, _ = api.probe(recipe, console=quiet())
    assert all(one.cached for one in again)


@pytest.mark.slow
def test_multi_lora_is_probed_beside_its_members_alone(tmp_path: Path) -> None:
    text = micro.RECIPE.replace("{method: lora, rank: 2, lr: 1e-2}", "{method: lora, rank: 2, lr: [1e-2, 1e-3, 1e-4]}")
    recipe = micro.write(tmp_path, text)
    assert len(list(group_lines(api.plan(recipe)))) == 1
    plan, _, (multi_lora,) = api.probe(recipe, console=quiet())
    assert (multi_lora.groups, multi_lora.probe.members, len(multi_lora.probe.step_seconds)) == (1, 3, probes.STEPS)
    alone = sum(
        probe_results.load(task, plan.device).steady_seconds for task in plan.cells if task.cell.method.method == "lora"
    )
    assert multi_lora.speedup == pytest.approx(alone / multi_lora.probe.steady_seconds)
    assert probe_results.multi_lora_results(plan) == [multi_lora]
    line = list(group_lines(plan))[1]
    assert "3 lora cells on bundled/odyssey-3m" in line
    assert f"({multi_lora.speedup:.2f} times the speed)" in line


@pytest.mark.slow
def test_a_probe_says_what_would_fail_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftodyssey.errors import MethodError
    from peftodyssey.jobs import probe as probe_job
    from peftodyssey.methods.registry import METHODS

    def refuse(*_: object, **__: object) -> None:
        raise MethodError("the disk is full", "free some")

    broken = METHODS["lora"].__class__(**{**vars(METHODS["lora"]), "attach": refuse})
    monkeypatch.setitem(METHODS, "lora", broken)
    assert probe_job.METHODS is METHODS
    _, tried, _ = api.probe(micro.write(tmp_path), console=quiet())
    reasons = {one.task.cell.method.method: one.reason for one in tried}
    assert "the disk is full" in reasons["lora"]
    assert reasons["full"] == ""


def test_a_damaged_probe_is_no_probe(tmp_path: Path) -> None:
    recipe = micro.write(tmp_path)
    plan, _, _ = api.probe(recipe, console=quiet())
    for file in (tmp_path / "probes").iterdir():
        file.write_text(json.dumps({"what": "half"}))
    assert probe_results.load(plan.cells[0], plan.device) is None
    assert estimate_time(api.plan(recipe)).seconds is None
