"""Searches for a learning rate: rounds from stored results, that end where a grid that was written out ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.errors import RecipeError
from peftodyssey.execution import lr_search, rounds, search_plan
from peftodyssey.execution.launch import Options, start
from peftodyssey.measures.registry import MEASURES, MEASURES_BY_NAME
from peftodyssey.plan.lr_grid import first_rates
from peftodyssey.recipe.cell import MethodSpec
from peftodyssey.recipe.lr_scale import next_lr, rate_of, step_of
from peftodyssey.report.collect import collect
from peftodyssey.store import layout, parquet, tables

FIRST = (1e-5, 3e-5, 1e-4)


def stored(rates: tuple[float, ...], seeds: int, max_cells: int) -> dict[str, Any]:
    """What the plan file says of a search at these rates."""
    own = {"label": "full", "domain": "notes", "revision": None, "model": "m"}
    cells = [{"group": "g", "coordinates": {**own, "lr": lr, "seed": seed}} for lr in rates for seed in range(seeds)]
    return {"cells": cells, "searches": {"g": {"first_rates": list(FIRST), "max_cells": max_cells}}}


def searched(monkeypatch: pytest.MonkeyPatch, loss: Any, seeds: int = 1, max_cells: int = 8) -> lr_search.Search:
    """The search after all of its rounds, where cells have the validation NLL that `loss` gives."""
    monkeypatch.setattr(
        lr_search, "_valid_nll", lambda cell, root: loss(cell["coordinates"]["lr"], cell["coordinates"]["seed"])
    )
    rates = FIRST
    while further := lr_search.next_round(stored(rates, seeds, max_cells), Path()):
        assert set(rates) < set(further["g"])
        assert len(further["g"]) * seeds <= max_cells
        rates = further["g"]
    return lr_search.searches(stored(rates, seeds, max_cells), Path())["g"]


def test_an_interior_optimum_is_found_from_a_grid_that_begins_away_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, resolved = np.random.default_rng(0), 0
    for _ in range(300):
        best = math.exp(rng.uniform(math.log(3e-7), math.log(3e-3)))
        noise: dict[tuple[float, int], float] = {}

        def loss(lr: float, seed: int, best: float = best, noise: dict[tuple[float, int], float] = noise) -> float:
            own = noise.setdefault((lr, seed), 0.003 * rng.standard_normal() + 0.05 * seed)
            return 3.0 + 0.02 * (math.log(lr / best) / math.log(2)) ** 2 + own

        found = searched(monkeypatch, loss, seeds=3, max_cells=24)
        resolved += found.state == lr_search.RESOLVED
        assert found.cells <= 24
        if found.state == lr_search.RESOLVED:
            assert min(found.rates) < found.best < max(found.rates)
            assert abs(math.log(found.best / best)) < math.log(3.4)
    assert resolved == 300


@pytest.mark.parametrize(
    ("loss", "state", "rates"),
    [
        (lambda lr, seed: -lr, lr_search.SPENT, (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
        (lambda lr, seed: lr, lr_search.SPENT, (1e-6, 3e-6, 1e-5, 3e-5, 1e-4)),
        (lambda lr, seed: -lr if lr < 2e-4 else math.nan, lr_search.RESOLVED, (1e-5, 3e-5, 1e-4, 3e-4)),
        (lambda lr, seed: -lr if lr < 2e-4 or seed else math.nan, lr_search.RESOLVED, (1e-5, 3e-5, 1e-4, 3e-4)),
        (lambda lr, seed: math.nan, lr_search.UNTRAINABLE, FIRST),
        (lambda lr, seed: None if lr == 3e-5 and seed else -lr, lr_search.GOING_ON, FIRST),
        (lambda lr, seed: None if lr == 1e-4 else 1.0 if lr == 1e-5 else 0.0, lr_search.GOING_ON, FIRST),
    ],
)
def test_how_a_search_ends(monkeypatch: pytest.MonkeyPatch, loss: Any, state: str, rates: tuple[float, ...]) -> None:
    found = searched(monkeypatch, loss, seeds=2, max_cells=11)
    assert (found.state, found.rates, found.round) == (state, rates, len(rates) - 2)
    assert found.next_rate is None
    said = lr_search.line(found)
    assert f"round {found.round}, {2 * len(rates)} of at most 11 cells" in said
    words = {"spent": "max_cells is spent", "resolved": "resolved at", "untrainable": "no rate could be trained"}
    assert words.get(state, "are not finished") in said


def test_the_scale_goes_on_in_both_directions() -> None:
    assert [rate_of(step) for step in range(-8, 1)] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
    for step in range(-16, 0):
        assert step_of(rate_of(step)) == step
        assert next_lr(rate_of(step), "high") == rate_of(step + 1)
        assert next_lr(rate_of(step), "low") == rate_of(step - 1)


def test_the_first_rates_follow_width_method_and_rank() -> None:
    assert first_rates(MethodSpec("full", ""), 4096) == (1e-5, 3e-5, 1e-4)
    assert first_rates(MethodSpec("lora", "", rank=16, alpha=32.0), 4096) == (1e-4, 3e-4, 1e-3)
    assert first_rates(MethodSpec("full", ""), 192) == (1e-4, 3e-4, 1e-3)
    assert first_rates(MethodSpec("lora", "", rank=2, alpha=4.0), 192) == (3e-3, 1e-2, 3e-2)
    assert first_rates(MethodSpec("ia3", ""), 4096) == (1e-3, 3e-3, 1e-2)


RECIPE = """\
version: 1
name: search
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [{name: notes, path: TEXT}]
general: []
methods: [{method: full, lr: {tune: auto, max_cells: 5}}]
train: {budget: 1 steps, seq_len: 64, batch_tokens: 128, warmup: 0%, schedule: constant}
score: {context: 64, stride: 64, tokens: 500}
measure: [degradation]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The recipe on a text of its own, which is short."""
    text = tmp_path_factory.mktemp("text") / "notes.jsonl"
    rows = (
        {"text": f"Note {n}: the learning rate {n % 7}e-{n % 5} was tried in round {n % 3}. " * 3} for n in range(80)
    )
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RECIPE.replace("TEXT", str(text))


def run(recipe: str, root: Path, options: Options | None = None) -> tuple[Any, Any]:
    plan = api.plan(api.load(recipe), device="cpu", out=root)
    return rounds.run_rounds(plan, root, options or Options(), Console(quiet=True), MEASURES_BY_NAME)


@pytest.fixture(scope="module")
def whole(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    root = tmp_path_factory.mktemp("search") / "auto"
    return (root, *run(recipe, root))


def found_in(root: Path, recipe: str) -> lr_search.Search:
    plan = api.plan(api.load(recipe), device="cpu", out=root)
    (search,) = lr_search.searches(search_plan.as_stored(plan), root).values()
    return search


def test_rounds_go_outward_until_the_cells_are_spent(whole: tuple[Path, Any, Any], recipe: str) -> None:
    root, plan, outcome = whole
    search = found_in(root, recipe)
    assert search.round > 1
    assert search.state in (lr_search.RESOLVED, lr_search.SPENT)
    assert (outcome.done, outcome.skipped, outcome.failed) == (len(plan.cells), 0, {})
    assert outcome.searches == tuple(lr_search.lines(root)) == (lr_search.line(search),)
    again = run(recipe, root)[1]
    assert (again.worked, again.skipped) == (False, len(plan.cells))
    listed = micro.invoke("status", root).stdout
    assert f"round {search.round}" in listed.replace("\n", " ")


def same_tables(first: Path, second: Path) -> None:
    """Every table is bit for bit the same, but for the recipe's name and what a clock or a gauge measured."""
    for root in (first, second):
        collect(root, MEASURES)
    for name in tables.tables_of(MEASURES):
        one, other = (
            [
                {key: value for key, value in row.items() if key not in (*tables.MEASURED, "recipe")}
                for row in parquet.read(root / name).to_pylist()
            ]
            for root in (first, second)
        )
        assert repr(one) == repr(other), name  # repr, because NaN is not equal to itself


def test_the_tables_are_those_of_the_same_grid_written_out(
    whole: tuple[Path, Any, Any], recipe: str, tmp_path: Path
) -> None:
    root, plan, _ = whole
    written = recipe.replace("name: search", "name: written").replace(
        "{tune: auto, max_cells: 5}", f"{{tune: {list(found_in(root, recipe).rates)}}}"
    )
    other = run(written, tmp_path / "written")[0]
    assert [task.entry["cell"] for task in other.cells] == [task.entry["cell"] for task in plan.cells]
    assert other.searches == {}
    same_tables(root, tmp_path / "written")


@pytest.mark.slow
def test_a_run_that_was_killed_takes_the_same_rounds(whole: tuple[Path, Any, Any], recipe: str, tmp_path: Path) -> None:
    root, plan, _ = whole
    first = api.plan(api.load(recipe), device="cpu", out=tmp_path / "killed")
    start(first, tmp_path / "killed", Options(), Console(quiet=True), MEASURES_BY_NAME)
    (tmp_path / "killed" / first.cells[0].folder / layout.MANIFEST).unlink()
    assert lr_search.next_round(search_plan.as_stored(first), tmp_path / "killed") is None  # a cell is missing
    last = run(recipe, tmp_path / "killed")[0]
    assert [task.folder for task in last.cells] == [task.folder for task in plan.cells]
    same_tables(root, tmp_path / "killed")


def test_check_and_plan_say_what_the_first_round_takes_and_the_most(
    recipe: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = micro.write(tmp_path, recipe)
    for verb in ("check", "plan"):
        said = micro.invoke(verb, path, "--device", "cpu").stdout.replace("\n", " ")
        assert "one search (tune: auto), round 1: 3 cells" in said
        assert "at most 5 cells in all rounds" in said


@pytest.mark.parametrize(
    ("lr", "more", "said"),
    [
        ("{tune: aut}", [], "did you mean auto?"),
        ("auto", [], "did you mean {tune: auto}?"),
        ("{tune: auto, max_cells: 2}", [], "3 or more"),
        ("{tune: auto, max_cell: 9}", [], "max_cells"),
        ("{tune: [1e-4, 1e-3], max_cells: 9}", [], "these rates are written out"),
        ("{tune: auto}", ["train.eval_at=50%", "train.select={halving: 2}"], "needs every rate trained to its end"),
    ],
)
def test_what_cannot_be_searched_is_refused(lr: str, more: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        api.load(RECIPE, [f"methods=[{{method: full, lr: {lr}}}]", *more])
    assert said in str(caught.value)
