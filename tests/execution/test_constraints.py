"""Constraints from recipe to tables: the ends of a curve of shares, a bound that is kept, replayed tokens, a base that
is returned.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support import micro
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.store import manifest, parquet

METHODS = """
pretraining_text: bundled/pretrain_sample
methods:
  - {method: full, lr: 1e-3, wise_ft: [0, 0.5, 1]}
  - {method: full, lr: 1e-3, l2_sp: 1e9}
  - {method: full, lr: 3e-3, early_stop: {general: 0.01, num_evals: 4}}
  - {method: full, lr: 1e-3, replay: 50%}
"""


@pytest.mark.slow
def test_each_constraint_from_the_recipe_to_its_row(tmp_path: Path) -> None:
    text = (
        micro.RECIPE[: micro.RECIPE.index("methods:")]
        + METHODS.strip()
        + "\n"
        + micro.RECIPE[micro.RECIPE.index("train:") :]
    )
    run = api.run(
        load_recipe(text, ["score.tokens=2k", "train.eval_at=100%"]), tmp_path / "out", console=Console(quiet=True)
    )
    rows = {row["label"]: row for row in run.results.to_pylist()}
    assert {row["status"] for row in rows.values()} == {"done"}
    points = parquet.read(tmp_path / "out" / "wise_ft.parquet").to_pylist()
    row, curve = rows["full"], {point["share"]: point for point in points}
    assert list(curve) == [0.0, 0.5, 1.0]
    assert curve[0.0]["nll"] == pytest.approx(row["nll_before"], abs=1e-6)
    assert curve[1.0]["nll"] == pytest.approx(row["nll_after"], abs=1e-6)
    assert curve[1.0]["forgetting"] == pytest.approx(row["forgetting"], abs=1e-6)
    assert rows["full"]["nll_after"] != pytest.approx(rows["full"]["nll_before"], abs=1e-3)

    returned = rows["full l2_sp=1e+09"]
    assert returned["nll_after"] == returned["nll_before"]
    assert rows["full replay=0.5"]["tokens"] == 2 * rows["full"]["tokens"]
    assert rows["full replay=0.5"]["steps"] == rows["full"]["steps"]

    stopped = rows["full early_stop=0.01"]
    (folder,) = (cell["folder"] for cell in run.cells if cell["cell"] == stopped["cell"])
    looks = dict(manifest.read(tmp_path / "out" / folder)["facts"]["general_rises_nats"])
    assert stopped["steps"] < stopped["stopped_at_step"] <= 4
    assert looks[stopped["steps"]] <= 0.01 < looks[stopped["stopped_at_step"]]
    assert '<section id="constraints"' in (tmp_path / "out/report/index.html").read_text(encoding="utf-8")
