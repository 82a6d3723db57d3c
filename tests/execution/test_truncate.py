"""`truncate` from recipe to rows: the ends of its ranks, which weights are kept meanwhile, and what a gap costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from support import micro
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.errors import RecipeError
from peftodyssey.execution.launch import Options
from peftodyssey.recipe.grid import cells
from peftodyssey.store import manifest, parquet

METHODS = """methods:
  - {method: full, lr: 1e-3}
  - {method: full, lr: 1e-3, l2_sp: 1}
  - {method: truncate, rank: [0, 4096], vectors: [in, out]}
"""
TEXT = micro.RECIPE[: micro.RECIPE.index("methods:")] + METHODS + micro.RECIPE[micro.RECIPE.index("train:") :]
OVERRIDES = ["score.tokens=2k", "train.eval_at=100%"]


def run(out: Path, overrides: tuple[str, ...] = (), **options: object) -> api.Run:
    return api.run(load_recipe(TEXT, [*OVERRIDES, *overrides]), out, console=Console(quiet=True), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("truncate") / "out"
    return out, run(out)


def rows_of(result):
    return {row["label"]: row for row in result.results.to_pylist()}


@pytest.mark.slow
def test_the_ends_are_the_full_update_and_the_base(finished):
    _, result = finished
    rows = rows_of(result)
    assert {row["status"] for row in rows.values()} == {"done"}
    full, none, whole = rows["full"], rows["truncate r=0 no vectors"], rows["truncate r=4096"]
    assert abs(full["delta_nll"]) > 1e-3
    for column in ("nll_after", "valid_nll_after", "forgetting"):
        assert whole[column] == pytest.approx(full[column], abs=1e-5)
    assert none["nll_after"] == pytest.approx(none["nll_before"], abs=1e-5)
    assert none["forgetting"] == pytest.approx(0, abs=1e-5)
    assert whole["lr"] == full["lr"]
    assert (whole["trainable_params"], whole["steps"]) == (0, 0)
    assert rows["truncate r=4096 no vectors"]["nll_after"] != full["nll_after"]


@pytest.mark.slow
def test_updates_cut_to_a_rank_are_rescaled_as_whole_ones_are(tmp_path):
    """At full rank the rescaled update costs what that of `full` costs."""
    measure = "measure=[degradation, forgetting, noise: {gammas: 0.2, pairs: 1, updates: true, documents: 8}]"
    shifts = ["methods[2].rank=[1, 4096]", "methods[2].vectors=in", measure]
    run(tmp_path / "out", tuple(shifts))
    rows = parquet.read(tmp_path / "out" / "noise.parquet").to_pylist()
    rises = {row["label"]: row["rise_nats"] for row in rows if row["kind"] == "update"}
    assert {"full", "truncate r=1", "truncate r=4096"} <= set(rises)
    assert rises["truncate r=4096"] == pytest.approx(rises["full"], abs=1e-5)
    assert rises["truncate r=1"] != pytest.approx(rises["full"], abs=1e-5)


@pytest.mark.slow
def test_weights_are_deleted_when_the_last_cell_that_needs_them_is_done(finished):
    out, result = finished
    assert not list(out.glob("cells/*/weights"))
    facts = [manifest.read(out / cell["folder"])["facts"]["weights"] for cell in result.cells]
    assert facts.count("dropped") == 2  # full and full l2_sp


@pytest.mark.slow
def test_a_rank_that_is_added_later_trains_again_what_it_is_made_from(finished, tmp_path):
    out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    more = run(tmp_path / "out", ("methods[2].rank=[0, 4096, 5000]",))
    rows = rows_of(more)
    assert rows["truncate r=5000"]["nll_after"] == pytest.approx(rows["full"]["nll_after"], abs=1e-5)
    assert not list((tmp_path / "out").glob("cells/*/weights"))


@pytest.mark.slow
def test_truncated_cells_alone_train_what_they_are_made_from(tmp_path):
    result = run(
        tmp_path / "out",
        ("methods[2].rank=4096", "methods[2].vectors=in"),
        options=Options(only={"method": "truncate"}),
    )
    (row,) = [row for row in result.results.to_pylist() if row["method"] == "truncate"]
    assert row["status"] == "done"
    assert row["delta_nll"] != 0


def test_the_grid_follows_the_rates_of_full():
    own = cells(load_recipe(TEXT, ["methods[0].lr={tune: [1e-4, 1e-3]}", "seeds=[0, 1]"]))
    cut = [cell for cell in own if cell.method.method == "truncate"]
    assert {(cell.method.lr, cell.seed) for cell in cut} == {(lr, seed) for lr in (1e-4, 1e-3) for seed in (0, 1)}
    assert len(cut) == 2 * 2 * 4
    assert not any("l2_sp" in cell.method.options for cell in cut)


def test_a_recipe_without_full_is_refused():
    with pytest.raises(RecipeError, match="truncate"):
        load_recipe(TEXT, ["methods=[lora, truncate]"])
