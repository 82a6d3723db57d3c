"""The recipes about overtraining: what they promise of cells and arms, and that the public ones stand without a
download.
"""

from __future__ import annotations

import pytest
from support.gpus import GIB, gpu
from support.plans import build

from peftodyssey import api, assets
from peftodyssey.recipe.bundled import names
from peftodyssey.recipe.grid import cells

SHAPES = {
    "overtraining-olmo1b": "random/olmo-1b",
    "overtraining-smollm2-135m": "random/smollm2-135m",
    "overtraining-pythia-410m": "random/pythia-410m",
    "overtraining-olmo2-7b": "random/olmo-2-7b",
    "overtraining-amber": "random/llama-7b",
}


def test_the_bundled_one_crosses_methods_rungs_and_seeds_at_three_rates_each() -> None:
    all_cells = cells(api.load("overtraining"))
    assert len(all_cells) <= 315
    pretrained = {rung["name"] for rung in assets.ladder("odyssey-3m")["rungs"] if rung["tokens"]}
    assert {cell.model.revision for cell in all_cells} == pretrained
    assert {cell.method.method for cell in all_cells} == {"full", "lora", "qlora"}
    assert {cell.method.rank for cell in all_cells if cell.method.method == "lora"} == {2, 8, 32}
    assert {cell.seed for cell in all_cells} == {0, 1, 2}
    rates: dict[str, set[float | None]] = {}
    for cell in all_cells:
        rates.setdefault(cell.method.label, set()).add(cell.method.lr)
    assert {len(own) for own in rates.values()} == {3}


def test_the_quick_one_has_every_annealed_rung_and_enough_seeds_for_a_verdict() -> None:
    all_cells = cells(api.load("overtraining-quick"))
    annealed = {rung["name"] for rung in assets.ladder("odyssey-3m")["rungs"] if rung["arm"] == "annealed"}
    assert {cell.model.revision for cell in all_cells} == annealed
    assert {cell.seed for cell in all_cells} == {0, 1, 2}


@pytest.mark.parametrize("name", SHAPES)
def test_the_public_ones_stand_and_can_be_rehearsed(name: str) -> None:
    assert name in dict(names())
    plan = api.plan(api.load(name, [f"model={{name: {SHAPES[name]}}}"]), device="cpu", memory="200GiB")
    assert {task.cell.method.method for task in plan.cells} <= {"full", "lora", "qlora"}
    assert any(task.measure == "noise" for task in plan.measures)
    assert any(task.measure == "noise" for cell in plan.cells for task in cell.measures), "trained updates, rescaled"


@pytest.mark.parametrize("name", ["overtraining-olmo2-7b", "overtraining-amber"])
def test_7b_is_compared_between_full_lora_and_qlora_on_24_gb(name: str) -> None:
    plan = build(api.load(name, [f"model={{name: {SHAPES[name]}}}"]), gpu(24, host_gib=48), 22 * GIB)
    assert {task.cell.method.method for task in plan.cells} == {"full", "lora", "qlora"}
    assert plan.too_large == ()


def test_olmo_1b_has_the_rungs_that_the_paper_compares() -> None:
    (model,) = api.load("overtraining-olmo1b").model
    assert {2_300_000_000_000, 3_000_000_000_000} <= set(model.revisions.tokens)
