"""The sample of pretraining text: indexed once a tokenizer, counted by the report, and no cell stands on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support import micro
from support.plans import build, load_recipe

from peftodyssey import api
from peftodyssey.memory.device import detect
from peftodyssey.store import manifest

SAMPLE = "pretraining_text=bundled/wiki_history_events"


def planned(folder: Path, *overrides: str):
    return build(load_recipe(str(micro.write(folder)), ["methods=[{method: full, lr: 1e-3}]", *overrides]), detect())


def test_it_is_one_index_and_changes_no_cell(tmp_path: Path) -> None:
    without, with_it = planned(tmp_path), planned(tmp_path, SAMPLE)
    [index] = [index for index in with_it.indexes if index.corpus.name == "wiki_history_events"]
    assert (index.split, index.folder) == ("all", with_it.cells[0].entry["measures"]["tokens"]["sample_index"])
    assert len(with_it.indexes) == len(without.indexes) + 1
    assert [task.hash for task in with_it.cells] == [task.hash for task in without.cells]
    assert "tokens" not in without.cells[0].entry.get("measures", {})


def test_without_tokens_it_is_not_read(tmp_path: Path) -> None:
    plan = planned(tmp_path, SAMPLE, "measure=degradation")
    assert "wiki_history_events" not in {index.corpus.name for index in plan.indexes}
    assert plan.cells[0].reads == ()


@pytest.mark.slow
def test_a_finished_run_gains_the_factor_without_training_again(tmp_path: Path) -> None:
    out, quiet = tmp_path / "out", Console(quiet=True)
    api.run_plan(planned(tmp_path), out, console=quiet)
    assert "Frequency in the pretraining text was not measured" in (out / "report/summary.md").read_text(
        encoding="utf-8"
    )
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob(manifest.layout.MANIFEST)}
    run, outcome, _ = api.run_plan(planned(tmp_path, SAMPLE), out, console=quiet)
    assert (outcome.done, outcome.skipped, outcome.inputs) == (0, 1, 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run is not None
    entries = run.query(
        "select name, share, part from token_breakdown where factor = 'frequency' order by place"
    ).to_pylist()
    assert len(entries) > 3
    assert sum(entry["part"] for entry in entries) == pytest.approx(run.results["delta_nll"][0].as_py(), rel=1e-9)
    assert "occurrences of the token in the pretraining sample" in (out / "report/index.html").read_text(
        encoding="utf-8"
    )
