"""Several budgets: each is the run of that budget by itself to the bit, whether or not its stem was shared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.report.training_length import budgets
from peftodyssey.store import layout, manifest

RECIPE = """\
version: 1
name: budgets
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
general: [bundled/wiki_general]
methods:
  - {method: full, lr: 1e-3}
  - {method: lora, rank: [2, 4], lr: 1e-2, dropout: 0.1}
train: {budget: [5 steps, 10 steps, 20 steps], seq_len: 64, batch_tokens: 128, schedule: wsd, warmup: 2 steps}
score: {context: 64, stride: 48, tokens: 1k}
measure: [degradation, forgetting]
"""
STARTS = {"5 steps": 0, "10 steps": 4, "20 steps": 8}  # the decay takes 1, 2 and 4 steps


def run(folder: Path, out: str, *settings: str) -> Path:
    recipe = api.load(micro.write(folder, RECIPE), list(settings))
    api.run(recipe, folder / out, console=Console(quiet=True))
    return folder / out


def by_cell(out: Path) -> dict[tuple[str, str], dict]:
    """The manifest of each cell with its log and its columns, by label and budget."""
    found = {}
    for row in api.open(out).results.to_pylist():
        (folder,) = (f for f in (out / layout.CELLS).iterdir() if manifest.read(f)["hash"].startswith(row["cell"]))
        log = pq.read_table(folder / layout.LOG).drop_columns(["seconds"]).to_pylist()
        found[row["label"], row["budget"]] = {
            "facts": manifest.read(folder)["facts"],
            "log": log,
            "losses": {name: row[name] for name in ("nll_after", "valid_nll_after", "general_nll_after")},
        }
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("budgets"), "out")


@pytest.mark.slow
def test_a_stem_is_trained_once_and_forgotten(together: Path) -> None:
    cells = by_cell(together)
    assert len(cells) == 9
    for (label, budget), cell in cells.items():
        assert cell["facts"]["resumed_from"] == STARTS[budget], (label, budget)
        assert cell["facts"]["steps"] == len(cell["log"]) == int(budget.split()[0])
        assert cell["facts"]["multi_lora_size"] == (1 if label == "full" else 2)
    assert not any((together / layout.STEMS).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["10 steps", "20 steps"])
def test_a_branch_is_the_run_of_its_budget_to_the_bit(together: Path, tmp_path: Path, budget: str) -> None:
    alone = by_cell(run(tmp_path, "alone", f"train.budget={budget}"))
    shared = by_cell(together)
    assert {cell["facts"]["resumed_from"] for cell in alone.values()} == {0}
    for key, cell in alone.items():
        assert cell["log"] == shared[key]["log"]
        assert cell["losses"] == shared[key]["losses"]


@pytest.mark.slow
def test_a_budget_whose_stem_is_gone_trains_from_its_start(together: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(together, out)
    before = by_cell(out)
    for folder in (out / layout.CELLS).iterdir():
        if "full" in folder.name and manifest.read(folder)["facts"]["steps"] == 20:
            shutil.rmtree(folder)
    again = by_cell(run(tmp_path, "again"))
    assert again["full", "20 steps"]["facts"]["resumed_from"] == 0
    assert again["full", "20 steps"]["log"] == before["full", "20 steps"]["log"]


def test_operations_of_a_stem_are_counted_once(tmp_path: Path) -> None:
    from peftodyssey.execution.clock import left_of
    from peftodyssey.plan.work import works

    plan = api.plan(api.load(micro.write(tmp_path, RECIPE)), device="cpu")
    full = [task for task in plan.cells if task.cell.method.method == "full"]
    assert [task.stem.shared for task in full] == [0, 4 / 10, 8 / 20]
    assert [task.stem.continues for task in full] == [True, True, False]
    left = [left_of(task.folder, works(plan)[task.folder], tmp_path).training for task in full]
    step = left[0] / 5
    assert sum(left) == pytest.approx(step * (5 + 6 + 12))
    assert budgets(plan) == [
        "budgets: 5 steps, 10 steps, 20 steps; their stems are trained once: 69 steps in all, 105 without"
    ]
    alike = api.plan(api.load(micro.write(tmp_path, RECIPE), ["train.schedule=cosine"]), device="cpu")
    assert budgets(alike)[0].endswith("each is trained from its start: 105 steps in all")


@pytest.mark.parametrize(
    "change", ["train.schedule=cosine", "train.eval_at=[50%, 100%]", "train.budget=20 steps", "train.engine=trl"]
)
def test_no_stem_where_steps_depend_on_the_budget(tmp_path: Path, change: str) -> None:
    plan = api.plan(api.load(micro.write(tmp_path, RECIPE), [change]), device="cpu")
    assert {task.stem for task in plan.cells} == {None}
