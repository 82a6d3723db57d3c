"""Likeness from a recipe to its tables: measured once, without training again, and in an order that does not hang on
the draw.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support import micro
from support.plans import build, load_recipe

from peftodyssey import api
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.source import resolve
from peftodyssey.errors import CorpusError
from peftodyssey.jobs import index as index_job
from peftodyssey.jobs.context import JobContext, JobOptions
from peftodyssey.jobs.handle import BaseHandle
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.measures.similarity import chunk_sampling, overlap, states
from peftodyssey.measures.similarity import job as states_job
from peftodyssey.measures.similarity.compute import Sample, reference, state_distances, token_overlap
from peftodyssey.measures.similarity.hidden_states import mean_states
from peftodyssey.memory.device import detect
from peftodyssey.models import source as model_source
from peftodyssey.models.load import load
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.store import layout

METHOD = "methods=[{method: full, lr: 1e-3}]"
ASKED = (
    "pretraining_text=bundled/pretrain_sample",
    "measure=[degradation, {similarity: {chunks: 24, chunk_tokens: 32}}]",
)


def planned(folder: Path, *overrides: str):
    return build(load_recipe(str(micro.write(folder)), [METHOD, "score.tokens=2k", *overrides]), detect())


@pytest.mark.slow
def test_a_finished_run_gains_it_without_training_again_and_once(tmp_path: Path) -> None:
    out, quiet = tmp_path / "out", Console(quiet=True)
    api.run_plan(planned(tmp_path, "measure=[degradation]"), out, console=quiet)
    assert "has no `similarity`" in (out / "report/summary.md").read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob(layout.MANIFEST)}
    run, outcome, _ = api.run_plan(planned(tmp_path, *ASKED), out, console=quiet)
    assert (outcome.done, outcome.skipped, outcome.inputs) == (0, 1, 3), "the sample's index, and the states of both"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run is not None
    text, floor = run.query("select * from similarity order by kind desc").to_pylist()
    assert (text["domain"], text["kind"], text["group"], floor["domain"]) == (
        "arxiv_cs.CL",
        "text",
        "arxiv",
        "pretrain_sample",
    )
    assert text["chunks"] == floor["chunks"] == 24
    assert (
        text["frechet"] > text["frechet_bias"] == pytest.approx(floor["frechet"], rel=1e-9)
    )  # the same halves, added in another order
    assert 0 < floor["js_bits"] < text["js_bits"] < 1
    assert 0 <= text["ngram_overlap"] < floor["ngram_overlap"] < 1
    assert 0.5 < text["base_bpb"] < 5
    [row] = {
        (r["domains"], r["note"])
        for r in run.query("select * from correlation where r is null").to_pylist()
        if r["scope"] == "pooled"
    }
    assert row == (1, "too few points (1)")
    assert api.run_plan(planned(tmp_path, *ASKED), out, console=quiet)[1].worked is False


class Silent:
    """Callbacks that nobody listens to."""

    def __getattr__(self, name: str):
        return lambda *arguments: False


def test_a_text_without_chunks_says_what_to_do_and_what_is_read_is_read_again_the_same(tmp_path: Path) -> None:
    plan = planned(tmp_path, ASKED[0], "measure=[degradation, {similarity: {chunks: 12, chunk_tokens: 32}}]")
    bases = LoadedModels("cpu", plan.budget_bytes)
    context = JobContext(tmp_path, JobOptions("cpu", 0.0, "adapters", None), Silent(), {})
    text = plan.measures[0]
    handle = BaseHandle(text.base, bases)
    [index] = [index for index in plan.indexes if index.folder == text.options.index]
    index_job.index(index, tmp_path, bases.tokenizer(text.base))
    states_job.run(text, handle, context)
    first = states.read(tmp_path / text.folder)
    states_job.run(text, handle, context)
    assert all((a == b).all() for a, b in zip(first, states.read(tmp_path / text.folder), strict=True))
    assert (first[0].shape, first[1].shape, first[2].tolist()) == (
        (12, bases.get(text.base).config.hidden_size),
        (12,),
        [0] * 12,
    )
    with pytest.raises(CorpusError, match="chunks of 1500 tokens"):
        states_job.run(replace(text, options=replace(text.options, chunk_tokens=1500)), handle, context)


ORDERED = ("wiki_general", "arxiv_cs.CL", "code_python_stdlib")


@pytest.mark.slow
def test_the_order_of_kinds_of_text_is_that_of_every_draw(tmp_path: Path) -> None:
    """Nearest to the sample of Wikipedia: more Wikipedia, then papers, then code; measured on states and on tokens."""
    base = model_source.resolve("bundled/odyssey-3m", None)
    model, tokenizer = load(base, precision="fp32"), load_tokenizer(base)
    indexes = {}
    for name, split in (("pretrain_sample", "all"), *((name, "test") for name in ORDERED)):
        corpus = resolve(CorpusSpec(name, f"bundled/{name}"))
        build_index(documents(corpus, split), tokenizer, tmp_path / name, max_tokens=60_000)
        indexes[name] = read_index(tmp_path / name)

    def sample(name: str, seed: int, subset: np.ndarray | None = None) -> Sample:
        index = indexes[name]
        row = chunk_sampling.sample_chunks(index.starts, 64, 80, seed, subset)
        token = chunk_sampling.chunk_ids(index.token, row, 64)
        return Sample(
            mean_states(model, token, ScoreSettings(), layer=-1, prefix=tokenizer.prefix_id), token, index.document[row]
        )

    for seed in range(3):
        index = indexes["pretrain_sample"]
        half = chunk_sampling.random_half(index.starts, seed)
        reference_sample = reference(sample("pretrain_sample", seed, half), sample("pretrain_sample", seed, ~half))
        grams = overlap.ngrams(index.token, index.starts, half)
        rows = []
        for name in ORDERED:
            text = sample(name, seed)
            rows.append(
                state_distances(text, reference_sample, permutations=99)
                | token_overlap(text.token, reference_sample.sample.token, grams)
            )
        for measure in ("mmd2", "frechet", "js_bits"):  # so few n-grams are shared that their order is that of the draw
            values = [row[measure] for row in rows]
            assert values == sorted(values), (seed, measure, values)
        assert rows[-1]["mmd_p"] == pytest.approx(0.01)
