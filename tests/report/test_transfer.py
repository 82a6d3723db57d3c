"""The transfer matrix on the page: planted changes come back, averaged over pairs, with the right verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.demo_store import Fit, base_column, changed, write_run, write_score
from support.plans import collect

from peftodyssey.display import result_text
from peftodyssey.measures.registry import MEASURES
from peftodyssey.measures.transfer import section as transfer
from peftodyssey.measures.transfer.table import TABLE
from peftodyssey.report.build import build
from peftodyssey.store import layout, plans

DOMAINS = ("arxiv_cs.CL", "notes", "wiki_history")
PLANTED = {
    "arxiv_cs.CL": {"notes": 0.3, "wiki_history": 0.1},
    "notes": {"arxiv_cs.CL": -0.2, "wiki_history": 0.2},
    "wiki_history": {"arxiv_cs.CL": 0.0, "notes": 0.05},
}


def store(folder: Path, seeds: tuple[int, ...] = (0,), domains: tuple[str, ...] = DOMAINS, lost: str = "") -> Path:
    """A run whose cells are scored on each other's text with planted changes; `lost` is a text without columns."""
    for seed in seeds:
        write_run(
            folder,
            fits=lambda *_: [Fit("full", "full", 1e-3, -0.4, 0.1)],
            domains=domains,
            rungs=(64,),
            recipe=f"demo{seed}",
            seeds=(seed,),
        )
    asked = plans.read_all(folder)
    for plan in (folder / layout.PLANS).glob("*.json"):
        plan.unlink()
    cells = [_crossed(folder, cell, domains, lost) for plan in asked for cell in plan["cells"]]
    plans.write(
        folder, "demo", "1" * 8, {**asked[0], "recipe": "demo", "measure": ["degradation", "transfer"], "cells": cells}
    )
    return folder


def _crossed(folder: Path, cell: dict, domains: tuple[str, ...], lost: str) -> dict:
    trained, seed, made = cell["coordinates"]["domain"], cell["coordinates"]["seed"], []
    for other in domains:
        if other != trained:
            index = f"corpora/{other}-test"
            paths = {
                "index": index,
                "before": f"scores/{other}-test-base64",
                "quantised": None,
                "after": f"scores/{other}-{cell['cell']}",
            }
            if other != lost:
                before = base_column(folder / index, shift=1.0 / 64**0.25)
                amount = PLANTED[trained][other] + 0.01 * seed
                write_score(folder / paths["after"], changed(before, folder / index, amount, spread=0.01, seed=seed))
            made.append({"name": other, **paths})
    return {**cell, "texts": {"transfer": made}}


def found(folder: Path) -> list[transfer.TransferMatrix]:
    rows = collect(folder)
    cells = {(cell["cell"], cell["recipe"]): cell for cell in plans.cells(folder)}
    return transfer.matrices(folder, rows, pq.read_table(folder / TABLE).to_pylist(), cells)


def test_what_was_planted_is_in_the_table_and_in_the_sentence(tmp_path: Path) -> None:
    [matrix] = found(store(tmp_path))
    deltas = {(pair.trained_on, pair.scored_on): pair.delta for pair in matrix.pairs}
    assert deltas == pytest.approx(
        {**{(a, b): PLANTED[a][b] for a in PLANTED for b in PLANTED[a]}, **{(a, a): -0.4 for a in DOMAINS}}, abs=1e-5
    )
    tokens = {pair.scored_on: pair.rows[0]["tokens"] for pair in matrix.pairs}
    means = {b: np.mean([PLANTED[a][b] for a in PLANTED if b in PLANTED[a]]) for b in DOMAINS}
    assert matrix.others.estimate == pytest.approx(
        sum(means[b] * tokens[b] for b in DOMAINS) / sum(tokens.values()), abs=1e-5
    )
    assert matrix.others.lower < matrix.others.estimate < matrix.others.upper
    assert matrix.own.estimate == pytest.approx(-0.4, abs=1e-5)
    verdicts = {(pair.trained_on, pair.scored_on): pair.verdict for pair in matrix.across}
    assert verdicts["arxiv_cs.CL", "notes"] == "worse"
    assert verdicts["notes", "arxiv_cs.CL"] == "better"
    assert verdicts["wiki_history", "arxiv_cs.CL"] == ""
    [said] = transfer.statements([matrix])
    assert said.startswith("Full fine-tuning: adapting to one text changed the others by +0.07")
    assert "mean of 6 pairs, 3 texts trained on" in said
    assert "4 of the pairs got worse and 1 better, from -0.200" in said
    assert said.endswith("on notes after arxiv_cs.CL.")


def test_seeds_are_averaged_and_the_interval_covers_them(tmp_path: Path) -> None:
    [matrix] = found(store(tmp_path, seeds=(0, 1, 2)))
    assert matrix.seeds == 3
    [pair] = [pair for pair in matrix.across if (pair.trained_on, pair.scored_on) == ("arxiv_cs.CL", "notes")]
    assert pair.text.startswith("+0.310 [+0.2")
    assert pair.text.endswith("] (mean of 3 seeds; interval over documents and seeds)")
    between = 4.302653 * 0.01 / 3**0.5  # Student's t with two degrees of freedom; seeds differ by 0.01
    mean = result_text.seeds_mean(pair.rows, result_text.DELTA)
    assert mean.estimate - mean.lower >= between
    assert "3 seeds" in transfer.statements([matrix])[0]


def test_a_column_that_is_not_there_yet_is_left_out(tmp_path: Path) -> None:
    [matrix] = found(store(tmp_path, lost="notes"))
    assert {(pair.trained_on, pair.scored_on) for pair in matrix.across} == {
        ("arxiv_cs.CL", "wiki_history"),
        ("notes", "arxiv_cs.CL"),
        ("notes", "wiki_history"),
        ("wiki_history", "arxiv_cs.CL"),
    }


def test_the_page_shows_it_and_says_where_it_was_not_measured(tmp_path: Path) -> None:
    build(store(tmp_path / "a"), measures=MEASURES)
    page, summary = (
        (tmp_path / "a/report" / name).read_text(encoding="utf-8") for name in ("index.html", "summary.md")
    )
    assert "What does adapting to one text do to the others?" in page
    assert page.count(">worse<") == 4
    assert "adapting to one text changed the others by" in summary
    assert (tmp_path / "a/report/figures/transfer.png").is_file()
    build(write_run(tmp_path / "b", rungs=(64,)), measures=MEASURES)
    assert "Not measured: `measure` of the recipe does not contain `transfer`" in (
        tmp_path / "b/report/summary.md"
    ).read_text(encoding="utf-8")
    assert not (tmp_path / "b/report/figures/transfer.png").exists()


def test_the_scale_is_centred_at_no_change_and_every_number_is_in_its_cell(tmp_path: Path) -> None:
    matrices = found(store(tmp_path))
    [figure] = transfer.figures(matrices)
    spec = json.loads(figure.chart.to_json())
    scales = [
        layer["encoding"]["color"]["scale"]
        for layer in spec["spec"]["layer"]
        if "scale" in layer["encoding"].get("color", {})
    ]
    assert [scale["domain"] for scale in scales] == [pytest.approx([-0.4, 0, 0.4], abs=1e-5)]
    values = spec["data"]["values"] if "values" in spec["data"] else next(iter(spec["datasets"].values()))
    assert sorted(value["text"] for value in values) == sorted(
        result_text.signed(pair.delta, 2) for pair in matrices[0].pairs
    )
    assert transfer.figures([]) == []
