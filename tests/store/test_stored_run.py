"""Columns of a stored run, against what was written."""

from __future__ import annotations

import numpy as np
import pytest
from support.demo_store import Fit, write_run, write_score

from peftodyssey.errors import StoreError
from peftodyssey.store.stored_run import stored_run


@pytest.fixture
def run(tmp_path):
    write_run(
        tmp_path, fits=lambda domain, rung: [Fit("full", "full", 1e-3, -0.1, 0.0)], domains=("notes",), rungs=(64,)
    )
    return stored_run(tmp_path, lambda cell: True)


def test_losses_and_ranks_are_read_from_the_folder_of_a_score(run):
    after = run.cells[0]["scores"]["test"]["after"]
    nll, rank = np.array([0.25, 1.5, np.nan]), np.array([1, 7, -1])
    write_score(run.folder / after, nll, rank)
    assert run.read(after, "nll_nats").tolist()[:2] == [0.25, 1.5]
    assert run.read(after, "nll_nats").dtype == np.float64
    assert run.read(after, "rank").tolist() == [1, 7, -1]


def test_a_column_is_read_once(run):
    after = run.cells[0]["scores"]["test"]["after"]
    ranks = run.read(after, "rank")
    write_score(run.folder / after, np.array([1.0]))
    assert run.read(after, "rank") is ranks


def test_other_columns_are_read_from_the_folder_of_an_index(run):
    test = run.cells[0]["scores"]["test"]
    assert len(run.read(test["index"], "document")) == len(run.read(test["after"], "rank"))
    with pytest.raises(StoreError, match=r"index\.parquet"):
        run.read(test["after"], "document")
