"""SQL and the opened run, on a planted output directory."""

from __future__ import annotations

import functools
import io
import json

import numpy as np
import pytest
from rich.console import Console
from support.demo_store import Fit, texts, write_run
from support.plans import collect

from peftodyssey.errors import InputError, StoreError
from peftodyssey.measures.registry import MEASURES
from peftodyssey.report import query_output
from peftodyssey.store import parquet
from peftodyssey.store import query as store_query
from peftodyssey.store.run_reader import open_run
from peftodyssey.store.views import views_of

VIEWS = views_of(MEASURES)
overview = functools.partial(store_query.overview, views=VIEWS)
columns_of = functools.partial(store_query.columns_of, views=VIEWS)
query = functools.partial(store_query.query, views=VIEWS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "mine"
    fits = [Fit("full", "full", 1e-3, -0.25, 0.1), Fit("lora r=8", "lora", 1e-3, 0, 0, status="failed")]
    write_run(folder, fits=lambda d, r: fits, domains=("notes",), rungs=(64,), documents=35)
    collect(folder)
    return folder


def test_the_overview_names_views_and_ten_queries_that_run(run):
    views, examples = overview([run])
    assert {name for name, _ in views} == {
        view for view in VIEWS.by_name if query([run], f"from {view} limit 1").num_rows
    }
    assert all(sentence for _, sentence in views)
    assert len(examples) == len(set(examples)) == 10
    assert all(query([run], sql).num_rows for sql in examples if "delta_lo" not in sql)


@pytest.mark.parametrize("view", sorted(VIEWS.by_name))
def test_every_column_of_a_view_has_a_sentence(view):
    listed = columns_of(view).to_pylist()
    assert [row["column"] for row in listed] == list(VIEWS.by_name[view].columns)
    assert all(row["what it is"] for row in listed)
    assert VIEWS.by_name[view].sentence


def test_an_unknown_view_lists_those_there_are():
    with pytest.raises(InputError, match="results, contrast"):
        columns_of("nothing")


@pytest.mark.parametrize("view", sorted(VIEWS.by_name))
def test_every_view_has_its_columns(run, view):
    assert query([run], f"select * from {view} limit 1").column_names == list(VIEWS.by_name[view].columns)


def test_results_and_cells(run):
    answer = query(
        [run],
        "select r.delta_nll, c.manifest->>'$.facts.steps' as steps "
        "from results r join cells c using (cell) where r.status = 'done'",
    )
    assert answer.to_pylist() == [{"delta_nll": pytest.approx(-0.25, abs=1e-5), "steps": "16"}]
    assert query([run], "select status from cells order by status")["status"].to_pylist() == [
        "done",
        "failed",
    ]


def test_tokens_carry_their_text_and_their_change(run):
    answer = query(
        [run],
        "select avg(delta) as d, string_agg(text, '' order by position) as t from tokens "
        "where split = 'test' and \"document\" = 0",
    )
    assert answer["t"][0].as_py() == texts("notestest", 35)[0]
    whole = query([run], "select split, domain, avg(delta) as d from TOKENS group by all order by split").to_pylist()
    assert [(row["split"], row["domain"]) for row in whole] == [
        ("general", "wiki_general"),
        ("test", "notes"),
        ("valid", "notes"),
    ]
    assert whole[1]["d"] == pytest.approx(-0.25, abs=1e-4)


def test_several_runs_are_told_apart(run, tmp_path):
    other = write_run(
        tmp_path / "other",
        fits=lambda d, r: [Fit("full", "full", 1e-3, 0.1, 0)],
        domains=("notes",),
        rungs=(64,),
        documents=3,
    )
    collect(other)
    assert query([run, other], "select distinct run from results order by run")["run"].to_pylist() == [
        "mine",
        "other",
    ]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "syntax error"),
        ("select nothing from results", "nothing"),
        ("select * from result", "result"),
        ("select 1; select * from nowhere", "one statement that reads, and this is SELECT and SELECT"),
        ("create table t as select 1", "this is CREATE"),
        ("insert into results values (1)", "this is INSERT"),
        ("pragma version", "this is PRAGMA"),
        ("", "this is none"),
    ],
)
def test_wrong_sql_is_an_input_error_in_duckdbs_words(run, sql, words):
    with pytest.raises(InputError, match=words):
        query([run], sql)


def test_named_queries_views_describe_and_explain_are_answered(run):
    best = query([run], "best").to_pylist()
    assert [row["label"] for row in best] == ["full"]
    assert query([run], "missing")["reason"].to_pylist() == ["loss is not finite at step 3 (train)"]
    assert query([run], "cost").num_rows == 1
    assert query([run], "versions").num_rows == 1
    assert query([run], "cells").num_rows == query([run], "from cells").num_rows == 2
    assert "delta_nll" in query([run], "describe results")["column_name"].to_pylist()
    assert query([run], "explain select * from results").num_rows


def test_columns_of_one_name_are_all_shown(run, tmp_path):
    """In every form, with a number behind the second name."""
    found = query([run], "select label, label, 1 as n from results order by 1")
    out = io.StringIO()
    Console(file=out, width=80).print(query_output.as_table(found, 80))
    assert out.getvalue().split()[:6] == ["label", "label_2", "n", "full", "full", "1"]
    assert query_output.as_csv(found).splitlines()[0] == '"label","label_2","n"'
    rows = json.loads(query_output.as_json(found))
    assert rows[0] == {"label": "full", "label_2": "full", "n": 1}
    query_output.write_parquet(found, tmp_path / "answer.parquet")
    assert parquet.read(tmp_path / "answer.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    "sql",
    [
        "copy results to '{}/x.csv'",
        "attach '{}/x.db'",
        "export database '{}/x'",
        "select * from '{}/secret.csv'",
        "set enable_external_access=true",
    ],
)
def test_sql_touches_no_file(run, tmp_path, sql):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(InputError):
        query([run], sql.format(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_an_opened_run_gives_tables_cells_and_evidence(run):
    opened = open_run(run, VIEWS)
    assert opened.results.num_rows == 2
    assert opened.learning_curves.num_rows == 3
    assert sorted(cell["status"] for cell in opened.cells) == ["done", "failed"]
    done = next(cell["cell"] for cell in opened.cells if cell["status"] == "done")
    answer = opened.nll(done[:8])
    assert np.mean(answer["after"].astype(float) - answer["before"]) == pytest.approx(-0.25, abs=1e-5)
    assert len(answer["before"]) == len(answer["document"]) == len(answer["token"])
    assert len(opened.nll(done, "general", "wiki_general")["after"]) == len(opened.nll(done, "general")["after"])


def test_wrong_names_are_input_errors_that_list_the_right_ones(run):
    opened = open_run(run, VIEWS)
    done = next(cell["cell"] for cell in opened.cells if cell["status"] == "done")
    failed = next(cell["cell"] for cell in opened.cells if cell["status"] == "failed")
    with pytest.raises(InputError, match=done):
        opened.nll("zz")
    with pytest.raises(InputError, match="test of notes"):
        opened.nll(done, "train")
    with pytest.raises(StoreError, match="not complete"):
        opened.nll(failed)


def test_a_folder_without_a_run_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="holds no results"):
        open_run(tmp_path, VIEWS)
    with pytest.raises(StoreError, match="holds no results"):
        query([tmp_path], "select * from cells")
