"""Paired differences between cells: the closed form, its coverage, and the SQL view on planted columns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from support.demo_store import write_run
from support.plans import collect

from peftodyssey.measures.registry import MEASURES
from peftodyssey.stats.paired_difference import paired_differences
from peftodyssey.store import parquet, query
from peftodyssey.store.views import views_of

VIEWS = views_of(MEASURES)


def test_clusters_of_equal_length_give_the_t_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.3, 1.0, 40)
    tokens = np.full(40, 7.0)
    [found] = paired_differences((values * tokens)[:, None], tokens)
    lower, upper = scipy_stats.t.interval(0.95, 39, values.mean(), scipy_stats.sem(values))
    assert (found.estimate, found.lower, found.upper) == pytest.approx((values.mean(), lower, upper), rel=1e-6)


def test_the_interval_covers_a_planted_difference():
    """1,500 simulated texts of 40 clusters of unequal length: within three standard errors of 95 %."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(60, 180, 40).astype(float)
    simulated = (0.2 + rng.normal(0, 0.3, (40, 1500))) * tokens[:, None]
    covered = np.mean([one.lower < 0.2 < one.upper for one in paired_differences(simulated, tokens)])
    assert abs(covered - 0.95) < 3 * (0.95 * 0.05 / 1500) ** 0.5 + 0.005


def test_too_few_clusters_have_no_interval():
    [found] = paired_differences(np.ones((12, 1)), np.ones(12))
    assert (found.estimate, found.lower) == (1.0, None)
    assert "too few" in found.note


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mine"
    write_run(folder, rungs=(64, 1024), documents=35)
    collect(folder)
    return folder


def test_the_view_is_the_closed_form_of_every_pair(run):
    """Against numpy, from the losses of single tokens."""
    asked = query.query([run], "from differences where split = 'test' and minus <> 'base'", VIEWS).to_pylist()
    cells = {row["cell"]: row for row in parquet.read(run / "results.parquet").to_pylist()}
    tokens = query.query([run], "select cell, document, nll_after from tokens where split = 'test'", VIEWS).to_pandas()
    losses = dict(iter(tokens.groupby("cell")))
    assert len(asked) == sum(
        a["domain"] == b["domain"] for a in cells.values() for b in cells.values() if a["cell"] != b["cell"]
    )
    for row in asked[::17]:
        first, second = losses[row["cell"]], losses[row["minus"]]
        difference = first["nll_after"].to_numpy(float) - second["nll_after"].to_numpy(float)
        sums = np.bincount(first["document"], difference)
        [expected] = paired_differences(sums[:, None], np.bincount(first["document"]).astype(float))
        assert (row["estimate"], row["lo"], row["hi"]) == pytest.approx(
            (expected.estimate, expected.lower, expected.upper), rel=1e-9
        )


def test_minus_the_base_is_the_change_of_results(run):
    asked = query.query(
        [run],
        "select d.estimate, r.delta_nll, d.lo, r.delta_lo from differences d join results r using (cell) "
        "where d.minus = 'base' and d.split = 'test'",
        VIEWS,
    ).to_pylist()
    assert len(asked) == 24
    for row in asked:
        assert row["estimate"] == pytest.approx(row["delta_nll"], abs=1e-12)
        assert row["lo"] == pytest.approx(row["delta_lo"], abs=0.01)
