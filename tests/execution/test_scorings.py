"""A recipe that is scored again in another way: the same cells, other columns, and never another seed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support import micro

from peftodyssey import api
from peftodyssey.errors import InputError
from peftodyssey.measures.registry import MEASURES
from peftodyssey.store import plans
from peftodyssey.store.query import query
from peftodyssey.store.views import views_of

METHODS = "methods=[{method: lora, rank: 2, lr: 1e-2}]"
MORE = ["score.tokens=2k", "score.context=128"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scorings")
    recipe, out = micro.write(folder), folder / "out"
    first = micro.invoke("run", recipe, "--out", out, "--set", METHODS)
    again = micro.invoke("run", recipe, "--out", out, "--set", METHODS, *(part for s in MORE for part in ("--set", s)))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    return out


def test_the_newest_is_shown_and_is_one_seed(out: Path) -> None:
    [row] = api.open(out).results.to_pylist()
    assert (row["score_tokens"], row["context"], row["seed"]) == (2000, 128, 0)
    summary = (out / "report" / "summary.md").read_text(encoding="utf-8")
    assert "seeds" not in summary.split("## ")[0]
    assert row["scoring"] in summary
    assert "2 ways of scoring" in summary


def test_the_other_is_shown_by_its_name(out: Path) -> None:
    newest, other = api.open(out).scorings
    api.report([out], scoring=other[:4])
    [row] = api.open(out, scoring=other[:4]).results.to_pylist()
    assert (row["scoring"], row["score_tokens"], row["context"]) == (other, 1000, 64)
    [newest_row] = api.open(out).results.to_pylist()
    assert (newest_row["scoring"], newest_row["cell"]) == (newest, row["cell"])
    assert newest_row["delta_nll"] != row["delta_nll"]
    assert (out / "scorings" / other / "report" / "index.html").is_file()


def test_tokens_are_counted_once(out: Path) -> None:
    [row] = api.open(out).results.to_pylist()
    sql = "select count(*) as n, sum(delta::double) as nats from tokens where split = 'test' and delta is not null"
    [answer] = query([out], sql, views_of(MEASURES)).to_pylist()
    assert answer["n"] == row["test_tokens"]
    assert answer["nats"] / answer["n"] == pytest.approx(row["delta_nll"], rel=1e-5)


def test_losses_and_card_are_those_of_the_scoring(out: Path, tmp_path: Path) -> None:
    newest, other = api.open(out).scorings
    for name in (newest, other):
        run = api.open(out, scoring=name)
        [row] = run.results.to_pylist()
        columns = run.nll(row["cell"])
        change = float(np.nanmean(columns["after"].astype(np.float64) - columns["before"]))
        assert change == pytest.approx(row["delta_nll"], rel=1e-4)
        exported = api.export(out, "best", to=tmp_path / name, scoring=name)
        assert f"{row['delta_nll']:+.4f}" in exported.cell


def test_an_earlier_way_that_is_run_again_is_the_newest(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    newest, other = api.open(copy).scorings
    again = micro.invoke("run", micro.write(tmp_path), "--out", copy, "--set", METHODS)
    assert again.returncode == 0, again.stderr
    assert list(api.open(copy).scorings) == [other, newest]
    [row] = api.open(copy).results.to_pylist()
    assert (row["scoring"], row["score_tokens"]) == (other, 1000)


def test_a_measure_that_is_asked_for_later_is_in_the_tables(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    sets = (part for s in (METHODS, *MORE, "measure=[degradation]") for part in ("--set", s))
    assert micro.invoke("run", micro.write(tmp_path), "--out", copy, *sets).returncode == 0
    sql = "select count(*) as n from token_breakdown"
    assert query([copy], sql, views_of(MEASURES)).to_pylist() == [{"n": 0}]
    sets = (part for s in (METHODS, *MORE) for part in ("--set", s))
    assert micro.invoke("run", micro.write(tmp_path), "--out", copy, *sets).returncode == 0
    assert query([copy], sql, views_of(MEASURES)).to_pylist()[0]["n"] > 0


def test_nothing_was_trained_again(out: Path) -> None:
    assert len({cell["folder"] for plan in plans.read_all(out) for cell in plan["cells"]}) == 1
    assert len(list((out / "cells").iterdir())) == 1


def test_a_name_that_is_none_lists_those_there_are(out: Path) -> None:
    with pytest.raises(InputError, match="begin with 'zz'") as caught:
        api.report([out], scoring="zz")
    assert all(name in str(caught.value) for name in api.open(out).scorings)
