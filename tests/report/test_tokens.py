"""Breakdown of a change by tokens: conservation, a planted cause, sentences, figures, and what was not measured."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from support.demo_store import Fit, write_run, write_score
from support.plans import collect

from peftodyssey.measures.registry import MEASURES
from peftodyssey.measures.tokens import sentences
from peftodyssey.measures.tokens.table import BREAKDOWN_TABLE, CONCENTRATION_TABLE, RANKS_TABLE, TERMS_TABLE
from peftodyssey.report.build import build
from peftodyssey.store import parquet, plans
from peftodyssey.store.query import query
from peftodyssey.store.views import views_of

TABLES = (BREAKDOWN_TABLE, CONCENTRATION_TABLE, RANKS_TABLE, TERMS_TABLE)


def ask(folder, sql):
    return query([folder], sql, views_of(MEASURES))


def read(folder):
    return [
        parquet.read(folder / name).to_pylist()
        for name in (BREAKDOWN_TABLE, CONCENTRATION_TABLE, RANKS_TABLE, TERMS_TABLE)
    ]


def one(domain: str, rung: int) -> list[Fit]:
    return [Fit("full", "full", 1e-3, 0.1, 0.0)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Newlines cost one nat more after adaptation, and nothing else changed."""
    folder = write_run(tmp_path_factory.mktemp("run"), fits=one, domains=("notes",), rungs=(64,), documents=80)
    test = plans.cells(folder)[0]["scores"]["test"]
    kind = parquet.read(folder / test["index"] / "index.parquet")["class"].to_numpy()
    before = np.round(parquet.read_nll(folder / test["before"])[0] * 1024) / 1024  # so that adding 1 does not round
    write_score(folder / test["before"], before)
    write_score(folder / test["after"], before + (kind == 0))
    build(folder, measures=MEASURES)
    return folder


@pytest.fixture(scope="module")
def ledger(run):
    return parquet.read(run / "token_breakdown.parquet").to_pylist()


def test_every_factor_adds_up_to_the_change_of_the_results(run, ledger):
    """Law 7."""
    [row] = parquet.read(run / "results.parquet").to_pylist()
    factors = {entry["factor"] for entry in ledger}
    assert factors == {"class", "position", "surprisal", "token"}
    for factor in factors:
        entries = [entry for entry in ledger if entry["factor"] == factor]
        assert math.fsum(entry["share"] for entry in entries) == pytest.approx(1, rel=1e-9)
        assert math.fsum(entry["part"] for entry in entries) == pytest.approx(row["delta_nll"], rel=1e-9)
        assert sum(entry["tokens"] for entry in entries) == row["test_tokens"]
        assert [entry["place"] for entry in entries] == sorted(entry["place"] for entry in entries)


def test_a_planted_cause_is_found_to_the_last_digit(ledger):
    classes = {entry["name"]: entry for entry in ledger if entry["factor"] == "class"}
    newline = classes.pop("newline")
    assert (newline["sum_nats"], newline["share"]) == (newline["tokens"], 1.0)
    assert {entry["share"] for entry in classes.values()} == {0.0}
    assert newline["part_lo"] < newline["part"] < newline["part_hi"]
    [worst] = [entry for entry in ledger if entry["factor"] == "token" and entry["sum_nats"] > 0]
    assert (worst["name"], worst["share"], worst["place"]) == ("\n", 1.0, 0)


def test_the_sentence_names_the_cause_with_its_interval(run):
    text = (run / "report/summary.md").read_text(encoding="utf-8")
    said = r"newlines, (\+0\.\d+) nats/token \[\+0\.\d+, \+0\.\d+\] of the change of \1, with [\d.]+ % of the tokens\."
    assert re.search(said, text)
    types = parquet.read(run / "concentration.parquet").to_pylist()[0]["units"]
    assert f"Half of the total rise is on {100 / types:.2g} % of the token types" in text


def test_the_section_has_sentence_figures_and_table_in_this_order(run):
    page = (run / "report/index.html").read_text(encoding="utf-8")
    page = page[page.index('<section id="tokens"') :]
    places = [
        page.index(mark)
        for mark in (
            "the class that adds most loss",
            "Change by class of token</h3>",
            "Concentration of the rise on token types</h3>",
            "Token types before and after</h3>",
            "In numbers</h3>",
            "the worst type",
        )
    ]
    assert places == sorted(places)


def test_ledger_concentration_and_ranks_answer_to_sql(run):
    found = ask(run, "select sum(part) as d, max(part) as m from token_breakdown where factor = 'class'").to_pylist()[0]
    assert found["d"] == found["m"] > 0
    assert ask(run, "select unit from concentration order by unit")["unit"].to_pylist() == ["tokens", "types"]
    assert ask(run, "select min(rank_before) as r from tokens where split = 'test'")["r"].to_pylist()[0] >= 1


def test_terms_are_those_that_the_training_text_has_more_of(run, ledger):
    assert ask(run, "select word from terms order by place")["word"].to_pylist() == ["adapter", "empire"]
    [entry] = [entry for entry in ledger if entry["name"] == "domain_term"]
    counted = ask(run, "select count(*) as n from tokens where split = 'test' and trim(text) in ('adapter', 'empire')")
    assert entry["tokens"] == counted["n"].to_pylist()[0] > 0


def test_ranks_are_those_of_the_columns(run):
    where = "split = 'test' and trim(text) in ('adapter', 'empire')"
    [wanted] = ask(
        run,
        f"select count(*) as n, median(rank_before) as m, avg((rank_after <= 100)::int) as r from tokens where {where}",
    ).to_pylist()
    [found] = ask(run, "select * from token_ranks where positions = 'domain_term'").to_pylist()
    assert (found["tokens"], found["median_before"], found["recall_100_after"]) == (
        wanted["n"],
        wanted["m"],
        pytest.approx(wanted["r"]),
    )
    assert "the true token is among the first 10 at" in (run / "report/summary.md").read_text(encoding="utf-8")
    assert "The 2 domain terms, the highest z first: adapter, empire." in (run / "report/index.html").read_text(
        encoding="utf-8"
    )


def test_without_general_text_there_are_no_terms(tmp_path):
    folder = write_run(tmp_path, fits=one, domains=("notes",), rungs=(64,), general=())
    page = build(folder, measures=MEASURES).read_text(encoding="utf-8")
    assert parquet.read(folder / "terms.parquet").num_rows == 0
    assert "the recipe has no general text to compare with" in page
    assert "At domain terms" not in page


def test_what_a_recipe_did_not_ask_for_is_not_measured(tmp_path):
    folder = write_run(tmp_path, fits=one, domains=("notes",), rungs=(64,), measure=("degradation", "forgetting"))
    page = build(folder, measures=MEASURES).read_text(encoding="utf-8")
    assert parquet.read(folder / "token_breakdown.parquet").num_rows == 0
    assert "Not measured for 1 cell: `measure` of demo does not contain `tokens`." in page
    assert '<section id="words"' not in page
    assert not (folder / "report/figures/token_classes.png").exists()


def test_where_nothing_rose_the_sentence_says_so(tmp_path):
    folder = write_run(tmp_path, fits=one, domains=("notes",), rungs=(64,), documents=35)
    test = plans.cells(folder)[0]["scores"]["test"]
    before = parquet.read_nll(folder / test["before"])[0]
    write_score(folder / test["after"], before - np.float32(0.5))
    rows = collect(folder)
    [said] = sentences.statements(rows, sentences.token_tables(*read(folder)))
    assert "no class of tokens clearly adds loss (the highest: " in said
    assert "Most is gained on " in said
    assert "No token type rose." in said
    build(folder, measures=MEASURES)
    assert not (folder / "report/figures/concentration.png").exists()


def test_seeds_are_stated_as_their_mean(tmp_path):
    folder = write_run(tmp_path, fits=one, domains=("notes",), rungs=(64,))
    rows = collect(folder)
    other = {"cell": "other", "seed": 1}
    tables = [[*found, *({**entry, "cell": "other"} for entry in found)] for found in read(folder)]
    for entry in tables[0][len(tables[0]) // 2 :]:
        entry["part"] += 0.01
    [said] = sentences.statements([*rows, {**rows[0], **other}], sentences.token_tables(*tables))
    assert re.search(
        r"nats/token \[[+-]0\.\d{3}, \+0\.\d{3}\] \(mean of 2 seeds; interval over documents and seeds\)", said
    )
    assert re.search(r"points \[.*\] \(mean of 2 seeds; ", said)
