"""The table and the section of best learning rates, on planted validation losses."""

import math

import numpy as np
import pytest
from support.demo_store import Fit, write_run
from support.plans import collect

from peftodyssey.display.sources import ReportSources
from peftodyssey.measures.learning_rates.section import section
from peftodyssey.measures.learning_rates.table import TABLE
from peftodyssey.store import parquet


def planted(tmp_path, losses, seeds=(0, 1, 2), label="full"):
    """Rows of a run whose cells change validation text by these amounts; None: stopped or pending, nan: failed."""

    def fits(domain, rung):
        status = {lr: "pending" if x is None else "failed" if math.isnan(x) else "done" for lr, x in losses.items()}
        return [Fit(label, label, lr, -0.1, 0.0, x, status[lr], group=label) for lr, x in losses.items()]

    run = write_run(tmp_path, fits=fits, domains=("notes",), rungs=(64,), seeds=seeds, documents=40)
    results = collect(run)
    (row,) = parquet.read(run / TABLE).to_pylist()
    found = section(ReportSources.of([run]).table(TABLE))
    return row, results, " ".join(found.statements)


def test_the_optimum_is_that_of_a_parabola_through_three_losses(tmp_path):
    losses = {1e-4: -0.10, 3e-4: -0.14, 1e-3: -0.13, 1e-2: -0.02}
    row, results, said = planted(tmp_path, losses)
    own = {r["lr"]: r["valid_nll_after"] for r in results if r["seed"] == 0}
    square, slope, _ = np.polyfit(np.log(list(own)[:3]), list(own.values())[:3], 2)
    assert row["lr"] == 3e-4
    assert row["lr_optimum"] == pytest.approx(math.exp(-slope / (2 * square)), rel=1e-6)
    assert row["factor_two_cost"] == pytest.approx(square * math.log(2) ** 2, rel=1e-6)
    assert row["lr_optimum_lo"] < row["lr_optimum"] < row["lr_optimum_hi"]
    assert (row["covers"], row["seeds"], row["rates"], row["lr_edge"]) == ("clusters and seeds", 3, 4, None)
    assert "3e-4 is best of 4 rates over 3 seeds; the optimum is " in said
    assert "a factor of two costs 0.0" in said


@pytest.mark.parametrize(
    ("losses", "edge", "words"),
    [
        ({1e-4: -0.10, 3e-4: -0.14}, "high", "To add: 1e-3"),
        ({1e-4: -0.14, 3e-4: -0.10}, "low", "To add: 3e-5"),
        ({1e-4: -0.10, 3e-4: -0.14, 1e-3: None}, "unmeasured", "the neighbours of 3e-4 trained to the end"),
        ({1e-4: -0.10, 3e-4: -0.14, 1e-3: math.nan}, None, "training diverged at a neighbour"),
    ],
)
def test_what_is_not_resolved_has_no_optimum_and_says_why(tmp_path, losses, edge, words):
    row, results, said = planted(tmp_path, losses)
    assert (row["lr_edge"], row["lr_optimum"]) == (edge, None)
    assert {r["lr_edge"] for r in results if r["selected"]} == {edge}
    assert words in said


def test_one_seed_has_an_interval_over_clusters_alone_and_one_rate_has_no_row(tmp_path):
    row, _, said = planted(tmp_path / "one", {1e-4: -0.10, 3e-4: -0.14, 1e-3: -0.13}, seeds=(0,))
    assert row["covers"] == "clusters"
    assert "with one seed" in said
    run = write_run(tmp_path / "single", fits=lambda d, r: [Fit("full", "full", 1e-3, -0.1, 0.0)], rungs=(64,))
    collect(run)
    assert parquet.read(run / TABLE).num_rows == 0
