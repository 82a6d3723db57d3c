"""The words on which cells got worse and better, on planted losses."""

from __future__ import annotations

import numpy as np
import pytest
from support.demo_store import write_run
from support.plans import collect

from peftodyssey.measures.registry import MEASURES
from peftodyssey.measures.tokens.words import MIN_CLUSTERS, mean_change
from peftodyssey.store import parquet
from peftodyssey.store.query import query
from peftodyssey.store.views import views_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), rungs=(64,), domains=("notes",), documents=35)
    collect(folder)
    return folder


def test_lists_hold_their_sign_and_sums_of_tokens(run):
    """Against sums over the tokens of the view, by word."""
    words = parquet.read(run / "words.parquet").to_pylist()
    assert {(row["split"], row["direction"]) for row in words} == {
        (split, direction) for split in ("test", "general") for direction in ("worse", "better")
    }
    cell = words[0]["cell"]
    sql = f"select text, delta from tokens where split = 'general' and cell = '{cell}'"
    tokens = query([run], sql, views_of(MEASURES)).to_pylist()
    for row in (row for row in words if row["cell"] == cell and row["split"] == "general"):
        deltas = [token["delta"] for token in tokens if token["text"].strip().casefold() == row["word"].strip()]
        assert row["tokens"] == len(deltas) or row["word"].isspace()
        assert row["sum_nats"] == pytest.approx(row["rise_nats"] + row["fall_nats"])
        assert (row["sum_nats"] > 0) == (row["direction"] == "worse")
        if not row["word"].isspace():
            assert row["sum_nats"] == pytest.approx(sum(deltas), abs=1e-3)
            assert row["rise_nats"] == pytest.approx(sum(delta for delta in deltas if delta > 0), abs=1e-3)


def test_an_example_is_the_strongest_occurrence(run):
    index = parquet.read(run / "corpora/notes-test/index.parquet").to_pylist()
    documents = parquet.read(run / "corpora/notes-test/documents.parquet")["text"].to_pylist()
    for row in parquet.read(run / "words.parquet").to_pylist()[:40]:
        if row["split"] == "test" and row["word"].isalnum():
            [token] = [t for t in index if (t["document"], t["position"]) == (row["document"], row["position"])]
            assert row["text"] == "corpora/notes-test"
            assert row["word"] in documents[row["document"]][token["start"] : token["end"]].casefold()


@pytest.mark.parametrize("clusters", [MIN_CLUSTERS + 1, 20])
def test_the_interval_of_a_word_covers_its_planted_change(clusters):
    """1,000 simulations, clusters of 3 or 4 occurrences."""
    rng = np.random.default_rng(clusters)
    covered = 0
    for _ in range(1000):
        sizes = rng.integers(3, 5, clusters)
        cluster = np.repeat(np.arange(clusters), sizes)
        delta = 0.4 + rng.normal(0, 0.3, clusters)[cluster] + rng.normal(0, 0.5, len(cluster))
        _, lower, upper = mean_change(delta, cluster)
        covered += lower is not None and lower < 0.4 < upper
    assert 0.92 < covered / 1000 < 0.97


def test_a_rare_word_has_no_interval():
    assert mean_change(np.ones(5), np.arange(5))[1:] == (None, None)
