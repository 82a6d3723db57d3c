"""Collected rows against planted numbers and against arithmetic done here."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.demo_store import MEASURED, Fit, write_run, write_score
from support.plans import collect

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.registry import MEASURES
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.report import collect as report_collect
from peftodyssey.store import manifest, parquet, plans, tables
from peftodyssey.store.collected import RESULTS as RESULTS_READ
from peftodyssey.store.collected import Collected

RESULTS = tables.tables_of(MEASURES)["results.parquet"]


def fits(domain: str, rung: int) -> list[Fit]:
    return [
        Fit("full", "full", 1e-4, -0.10, 0.02, group="full"),
        Fit("full", "full", 1e-3, -0.30, 0.08, group="full"),
        Fit("full", "full", 1e-2, -0.50, 0.30, valid=-0.05, group="full"),
        Fit("qlora r=8", "qlora", 1e-3, 0.05, -0.01, extra={"rank": 8, "alpha": 16.0}),
        Fit("lora r=8", "lora", 1e-3, -0.20, 0.03, status="failed"),
        Fit("lora r=16", "lora", 1e-3, -0.20, 0.03, status="pending"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder, fits=fits, domains=("notes",), rungs=(64,), general=("wiki", "news"), documents=40)


@pytest.fixture(scope="module")
def rows(run):
    return {(row["label"], row["lr"]): row for row in collect(run)}


def test_every_column_of_a_finished_cell_is_filled(rows):
    row = rows["qlora r=8", 1e-3]
    empty = {name for name in RESULTS if row[name] is None}
    of_constraints = {"l2_sp", "norm_ball", "replay", "early_stop", "stopped_at_step"}  # this cell has none
    not_measured = {name for measure in MEASURES if measure.name not in MEASURED for name in measure.columns}
    of_plans = {"budget", "stride", "score_tokens", "scoring", "setting"}  # the planted plan has none
    assert empty == of_plans | {"targets", "reason", "lr_edge"} | of_constraints | not_measured


def test_no_two_measures_define_the_same_column_or_table():
    columns = [*tables.RESULTS, *(name for measure in MEASURES for name in measure.columns)]
    own = [name for measure in MEASURES for name in (*measure.tables, *measure.files)]
    files = ["results.parquet", "log.parquet", "nll.parquet", *own]
    assert sorted(columns) == sorted(set(columns))
    assert sorted(files) == sorted(set(files))


class Intruder(Measure):
    """A measure that returns more than it declares."""

    spec = MeasureSpec("intruder")
    tables: ClassVar = {"intruder.parquet": {}}
    columns: ClassVar = {"intruded": ("int64", "a declared column")}

    def __init__(self, collected: Collected, reads: tuple[str, ...] = ()) -> None:
        self.collected = collected
        self.reads = reads

    def collect(self, run, tables):
        return self.collected


@pytest.mark.parametrize(
    ("collected", "reads", "named"),
    [
        (Collected(columns={0: {"intruded": 1, "tokens": 2}}), (), "tokens"),
        (Collected(columns={0: {"intruded": 1}}), (RESULTS_READ,), "intruded"),
        (Collected({"transfer.parquet": []}), (), r"transfer\.parquet"),
        (Collected({"results.parquet": []}), (RESULTS_READ,), r"results\.parquet"),
    ],
)
def test_a_measure_that_returns_what_it_does_not_declare_is_refused(run, collected, reads, named):
    with pytest.raises(AssertionError, match=f"'intruder'.*{named}"):
        report_collect.collect(run, (*MEASURES, Intruder(collected, reads)))


def test_declared_columns_of_a_measure_reach_the_results(tmp_path):
    folder = write_run(tmp_path, fits=fits, domains=("notes",), rungs=(64,))
    found = report_collect.collect(folder, (*MEASURES, Intruder(Collected(columns={1: {"intruded": 7}}))))
    assert [row["label"] for row in found if row["intruded"] == 7] == ["full"]


def test_planted_changes_are_found(rows):
    assert rows["full", 1e-3]["delta_nll"] == pytest.approx(-0.30, abs=1e-5)
    assert rows["full", 1e-3]["forgetting"] == pytest.approx(0.08, abs=1e-5)
    for row in (row for row in rows.values() if row["status"] == "done"):
        assert row["delta_lo"] < row["delta_nll"] < row["delta_hi"]
        assert row["forgetting_lo"] < row["forgetting"] < row["forgetting_hi"]


def test_columns_equal_plain_arithmetic(run, rows):
    row = rows["qlora r=8", 1e-3]
    cell = next(c for c in plans.cells(run) if c["cell"] == row["cell"])
    test = cell["scores"]["test"]
    before, after, quantised = (
        parquet.read_nll(run / test[k])[0].astype(float) for k in ("before", "after", "quantised")
    )
    total_bytes = pq.read_table(run / test["index"] / "documents.parquet")["bytes"].to_numpy().sum()
    assert row["nll_before"] == pytest.approx(before.mean(), rel=1e-12)
    assert row["nll_after"] == pytest.approx(after.mean(), rel=1e-12)
    assert row["nll_quantised"] == pytest.approx(quantised.mean(), rel=1e-12)
    assert row["ppl_after"] == pytest.approx(math.exp(after.mean()), rel=1e-12)
    assert row["bpb_before"] == pytest.approx(before.sum() / math.log(2) / total_bytes, rel=1e-12)
    assert (row["test_tokens"], row["test_documents"]) == (len(before), 40)


def test_general_texts_are_pooled_by_tokens(run, rows):
    row = rows["full", 1e-3]
    cell = next(c for c in plans.cells(run) if c["cell"] == row["cell"])
    before = np.concatenate([parquet.read_nll(run / g["before"])[0].astype(float) for g in cell["scores"]["general"]])
    assert row["general_nll_before"] == pytest.approx(before.mean(), rel=1e-12)
    assert row["general_documents"] == 80


def test_the_learning_rate_is_chosen_on_validation_not_on_test(rows):
    assert [rows["full", lr]["selected"] for lr in (1e-4, 1e-3, 1e-2)] == [False, True, False]
    assert rows["full", 1e-3]["lr_edge"] is None
    assert rows["qlora r=8", 1e-3]["selected"]


def test_failed_and_pending_cells_are_rows(rows):
    failed, pending = rows["lora r=8", 1e-3], rows["lora r=16", 1e-3]
    assert failed["status"] == "failed"
    assert "loss is not finite" in failed["reason"]
    assert pending["status"] == "pending"
    assert not failed["selected"]
    assert pending["delta_nll"] is None


def test_a_cell_whose_column_is_missing_is_not_done(tmp_path):
    run = write_run(tmp_path, fits=lambda d, r: [Fit("full", "full", 1e-3, -0.1, 0.0)], domains=("notes",), rungs=(64,))
    after = run / plans.cells(run)[0]["scores"]["test"]["after"]
    (after / "manifest.json").unlink()
    assert collect(run)[0]["status"] == "pending"
    manifest.fail(after, "the disk was full", "score")
    row = collect(run)[0]
    assert (row["status"], row["reason"]) == ("failed", "the disk was full (score)")


def test_too_few_documents_give_a_note_and_no_interval(tmp_path):
    run = write_run(
        tmp_path,
        fits=lambda d, r: [Fit("full", "full", 1e-3, -0.1, 0.0)],
        domains=("notes",),
        rungs=(64,),
        documents=12,
    )
    row = collect(run)[0]
    assert row["delta_nll"] == pytest.approx(-0.1, abs=1e-5)
    assert row["delta_lo"] is None
    assert row["delta_hi"] is None
    assert row["reason"] == "too few documents (12); general text: too few documents (12)"


def test_collecting_again_gives_the_same_bytes(run):
    collect(run)
    first = [(run / name).read_bytes() for name in ("results.parquet", "learning_curves.parquet")]
    collect(run)
    assert first == [(run / name).read_bytes() for name in ("results.parquet", "learning_curves.parquet")]


def test_rows_that_are_not_scored_count_nowhere(tmp_path):
    run = write_run(tmp_path, fits=lambda d, r: [Fit("full", "full", 1e-3, -0.1, 0.0)], domains=("notes",), rungs=(64,))
    test = plans.cells(run)[0]["scores"]["test"]
    for key in ("before", "after"):
        nll, rank = (column.copy() for column in parquet.read_nll(run / test[key]))
        nll[::50], rank[::50] = np.nan, -1
        write_score(run / test[key], nll, rank)
    row = collect(run)[0]
    after = parquet.read_nll(run / test["after"])[0].astype(float)
    assert row["nll_after"] == pytest.approx(np.nanmean(after), rel=1e-12)
    assert row["test_tokens"] == int((~np.isnan(after)).sum()) < len(after)


def test_storage_of_a_quantised_base_is_apart_from_training(rows):
    row = rows["qlora r=8", 1e-3]
    assert row["delta_storage"] == pytest.approx(0.02, abs=1e-6)  # as the demo plants it
    assert row["forgetting_storage"] == pytest.approx(0.02, abs=1e-6)
    assert row["general_nll_quantised"] - row["general_nll_before"] == pytest.approx(0.02, abs=1e-6)
    full = rows["full", 1e-4]
    assert {full[name] for name in ("delta_storage", "forgetting_storage", "general_nll_quantised")} == {None}
