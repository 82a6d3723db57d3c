"""`divergence` and `predictors` from recipe to tables: forgetting to second order is what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support import micro
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.store import parquet

METHODS = """methods:
  - {method: full, lr: [2e-5, 2e-4]}
  - {method: lora, rank: 2, lr: [2e-3, 4e-3, 8e-3]}
  - {method: qlora, rank: 2, lr: 4e-3}
"""
TEXT = micro.RECIPE[: micro.RECIPE.index("methods:")] + METHODS + micro.RECIPE[micro.RECIPE.index("train:") :]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    recipe = load_recipe(
        TEXT,
        [
            "train.budget=8 steps",
            "train.eval_at=100%",
            "score.tokens=2k",
            "measure=[forgetting, geometry, divergence, predictors]",
        ],
    )
    out = tmp_path_factory.mktemp("divergence") / "out"
    return out, api.run(recipe, out, console=Console(quiet=True)).results.to_pylist()


@pytest.mark.slow
def test_forgetting_is_slope_and_curvature_where_the_update_is_small(finished) -> None:
    _, rows = finished
    (row,) = [row for row in rows if (row["method"], row["lr"]) == ("full", 2e-5)]
    measured = row["forgetting"]
    assert measured != 0
    assert abs(row["forgetting_curvature"]) > 0.05 * abs(measured)
    assert row["forgetting_slope"] + row["forgetting_curvature"] == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_kl_and_changed_guesses_grow_with_the_rate(finished) -> None:
    _, rows = finished
    lora = sorted((row for row in rows if row["method"] == "lora"), key=lambda row: row["lr"])
    for column in ("kl_target", "kl_general", "changed_guesses_target", "changed_guesses_general"):
        values = [row[column] for row in lora]
        assert values == sorted(values)
        assert values[0] > 0


@pytest.mark.slow
def test_the_base_of_qlora_is_the_quantised_one(finished) -> None:
    _, rows = finished
    (row,) = [row for row in rows if row["method"] == "qlora"]
    by_training = row["forgetting"] - row["forgetting_storage"]
    assert row["forgetting_slope"] + row["forgetting_curvature"] == pytest.approx(by_training, rel=0.25, abs=1e-3)


@pytest.mark.slow
def test_predictors_are_compared_over_methods(finished) -> None:
    out, _ = finished
    rows = parquet.read(out / "predictors.parquet").to_pylist()
    assert {"learning", "update_norm_relative", "kl_target", "second_order"} <= {row["predictor"] for row in rows}
    assert '<section id="predictors"' in (out / "report/index.html").read_text(encoding="utf-8")
