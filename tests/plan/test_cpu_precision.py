"""`precision: auto` on a CPU: measured once, kept by a run that was begun, fp32 where nothing is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftodyssey import api
from peftodyssey.execution import cpu_bf16 as measuring
from peftodyssey.execution.launch import record
from peftodyssey.jobs.measure_cpu_bf16 import measure
from peftodyssey.memory import cpu_bf16
from peftodyssey.models.source import resolve
from peftodyssey.plan import cpu_precision

RECIPE = """\
version: 1
name: precision
model: bundled/odyssey-3m
domains: [bundled/arxiv_cs.CL]
methods: [{method: full, lr: 1e-4}]
train: {budget: 4 steps, seq_len: 64, batch_tokens: 256}
"""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Keeps a measurement in a cache of the test's own; nothing is known before."""
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))
    return lambda speedup: cpu_bf16.keep(cpu_bf16.Measurement("a test", speedup, 1.0))


def precision_of(plan) -> str:
    (task,) = plan.cells
    assert task.auto_values["precision"] == task.base.precision
    return task.base.precision


def test_bf16_is_taken_where_it_was_measured_to_be_faster(known, tmp_path: Path) -> None:
    assert precision_of(api.plan(RECIPE, device="cpu")) == "fp32"
    for speedup, expected in ((1.19, "fp32"), (1.2, "bf16")):
        known(speedup)
        plan = api.plan(RECIPE, device="cpu")
        assert precision_of(plan) == expected
        assert f"{speedup:.2f} times" in cpu_precision.line(plan, tmp_path)
    assert precision_of(api.plan(api.load(RECIPE, ["train.precision=fp32"]), device="cpu")) == "fp32"


@pytest.mark.parametrize(("begun", "later"), [(1.0, 2.0), (2.0, 1.0)])
def test_a_run_that_was_begun_keeps_its_precision(known, tmp_path: Path, begun: float, later: float) -> None:
    known(begun)
    plan, root = api.plan(RECIPE, device="cpu"), tmp_path / "run"
    root.mkdir()
    record(plan, root)
    known(later)
    again = api.plan(RECIPE, device="cpu", out=root)
    assert [task.folder for task in again.cells] == [task.folder for task in plan.cells]
    assert "begun" in cpu_precision.line(again, root)
    assert [task.folder for task in api.plan(RECIPE, device="cpu").cells] != [task.folder for task in plan.cells]


def test_a_precision_that_the_recipe_named_is_none_of_auto(known, tmp_path: Path) -> None:
    known(1.0)
    root = tmp_path / "run"
    root.mkdir()
    record(api.plan(api.load(RECIPE, ["train.precision=bf16"]), device="cpu"), root)
    assert cpu_precision.recorded_precision(root) is None
    assert precision_of(api.plan(RECIPE, device="cpu", out=root)) == "fp32"


def test_a_damaged_measurement_is_none(known, tmp_path: Path) -> None:
    known(2.0)
    (file,) = (tmp_path / "cache" / "cpu-bf16").iterdir()
    for text in ("", "{}", '{"model": "x", "fp32_seconds": 0, "bf16_seconds": 1}', "[1]"):
        file.write_text(text)
        assert cpu_bf16.read() is None


def test_it_is_measured_once_and_only_where_it_decides(known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(source, parameters):
        asked.append((source.name, parameters))
        return cpu_bf16.Measurement(source.name, 3.0, 1.0)

    monkeypatch.setattr("peftodyssey.jobs.measure_cpu_bf16.measure", measured)
    monkeypatch.setattr(cpu_bf16, "has_instructions", lambda: True)
    named = api.load(RECIPE, ["train.precision=fp32"])
    assert precision_of(api.plan(named, out=tmp_path, measure=True, device="cpu")) == "fp32"
    assert not asked
    assert [precision_of(api.plan(RECIPE, out=tmp_path, measure=True, device="cpu")) for _ in range(2)] == [
        "bf16",
        "bf16",
    ]
    assert asked == [("bundled/odyssey-3m", 3443136)]
    assert "3.00 times" in measuring.doctor_line()


@pytest.mark.slow
def test_a_step_is_measured_in_both_precisions() -> None:
    import torch

    state = torch.random.get_rng_state()
    measured = measure(resolve("random/tiny-llama"), 0)
    assert measured.fp32_seconds > 0
    assert measured.bf16_seconds > 0
    assert torch.equal(state, torch.random.get_rng_state())
