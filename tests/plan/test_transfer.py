"""The transfer matrix: other domains are columns of a cell, no part of it, and come later without training again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from support import micro
from support.plans import build, load_recipe

from peftodyssey import api, assets
from peftodyssey.memory.device import detect
from peftodyssey.store import manifest, parquet

ASKED = "measure=[degradation, transfer]"
TWO = [
    "domains=[bundled/arxiv_cs.CL, bundled/wiki_history_events]",
    "general=[]",
    "methods=[{method: lora, rank: 2, lr: 1e-2}]",
]
THREE = [
    "domains=[bundled/arxiv_cs.CL, {source: bundled/wiki_history_events, newline: [keep, mismatch, strip]}]",
    *TWO[2:],
]


def planned(folder: Path, *overrides: str):
    return build(load_recipe(str(micro.write(folder)), list(overrides)), detect())


def test_it_adds_columns_and_changes_no_cell_and_no_row(tmp_path: Path) -> None:
    without, with_it = planned(tmp_path, *TWO, "measure=degradation"), planned(tmp_path, *TWO, ASKED)
    assert [task.hash for task in with_it.cells] == [task.hash for task in without.cells]
    assert [task.entry["scores"] for task in with_it.cells] == [task.entry["scores"] for task in without.cells]
    for kind in ("indexes", "base_scores"):
        assert {task.folder for task in getattr(with_it, kind)} == {task.folder for task in getattr(without, kind)}
    assert not any("texts" in task.entry or task.columns != task.scores for task in without.cells)
    one, other = with_it.cells
    assert [text["name"] for text in one.entry["texts"]["transfer"]] == [other.cell.domain.name]
    assert one.entry["texts"]["transfer"][0]["before"] == other.entry["scores"]["test"]["before"]
    assert one.columns[-1].index == other.entry["scores"]["test"]["index"]
    assert one.columns[-1].folder not in {column.folder for task in with_it.cells for column in task.scores}


def test_a_text_that_is_scored_alike_under_two_policies_is_scored_once(tmp_path: Path) -> None:
    names = {
        task.cell.domain.display_name: [text["name"] for text in task.entry["texts"]["transfer"]]
        for task in planned(tmp_path, *THREE, ASKED).cells
    }
    assert names == {
        "arxiv_cs.CL": ["wiki_history_events", "wiki_history_events, strip"],
        "wiki_history_events": ["arxiv_cs.CL", "wiki_history_events, strip"],
        "wiki_history_events, mismatch": ["arxiv_cs.CL", "wiki_history_events, strip"],
        "wiki_history_events, strip": ["arxiv_cs.CL", "wiki_history_events"],
    }


def test_one_text_alone_is_pointed_out(tmp_path: Path) -> None:
    path = str(micro.write(tmp_path))
    [warning] = load_recipe(path, [ASKED]).warnings
    assert "only one text" in warning.what
    assert load_recipe(path, [ASKED, *TWO]).warnings == ()


@pytest.mark.slow
def test_a_finished_run_gains_it_from_the_weights_that_it_kept(tmp_path: Path) -> None:
    out, quiet = tmp_path / "out", Console(quiet=True)
    settings = [*TWO, "train.eval_at=100%", "score={context: 256, stride: 128, tokens: 2k}"]
    api.run_plan(planned(tmp_path, *settings, "measure=degradation"), out, console=quiet)
    before = {path: path.read_bytes() for path in (out / "cells").rglob("*") if path.is_file()}
    plan = planned(tmp_path, *settings, ASKED)
    run, outcome, _ = api.run_plan(plan, out, console=quiet)
    assert (outcome.done, outcome.skipped, outcome.failed) == (2, 0, {})
    assert {path: path.read_bytes() for path in before} == before
    assert api.run_plan(plan, out, console=quiet)[1].skipped == 2
    assert run is not None
    assert len(run.results) == 2
    pairs = {(row["trained_on"], row["scored_on"]): row for row in run.query("select * from transfer").to_pylist()}
    assert len(pairs) == 4
    for row in run.results.to_pylist():
        own = pairs[row["domain"], row["domain"]]
        assert own["in_domain"]
        assert [own[name] for name in ("delta_nll", "nll_before", "tokens")] == [
            row[name] for name in ("delta_nll", "nll_before", "test_tokens")
        ]
    for row in run.query(
        "select cell, domain, avg(delta::double) as delta from tokens where split = 'transfer' group by all"
    ).to_pylist():
        [pair] = [pair for pair in pairs.values() if not pair["in_domain"] and pair["cell"] == row["cell"]]
        assert pair["scored_on"] == row["domain"]
        assert pair["delta_nll"] == pytest.approx(row["delta"], rel=1e-5)
    [short] = [
        task for task in plan.cells if task.cell.domain.name.startswith("wiki")
    ]  # the other text has short documents
    _as_plain_peft_says(out, short)


def _as_plain_peft_says(out: Path, task) -> None:
    """One document of the other text under the exported adapter, by transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(assets.unpack_model("odyssey-3m", "annealed-64M"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, out / task.folder / "adapter").eval()
    [column] = [column for column in task.columns if column not in task.scores]
    index = parquet.read(out / column.index / manifest.layout.INDEX)
    nll = parquet.read_nll(out / column.folder)[0]
    document = index["document"].to_numpy()
    rows = document == np.flatnonzero(np.bincount(document) < 256)[0]
    prefix = (manifest.read(out / column.folder) or {})["facts"]["prefix"]
    ids = torch.tensor([[prefix, *index["token"].to_numpy()[rows]]])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="none")
        with model.disable_adapter():
            untouched = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="none")
    assert np.abs(nll[rows] - expected.numpy()).max() < 1e-4
    assert np.abs(nll[rows] - untouched.numpy()).max() > 1e-2
