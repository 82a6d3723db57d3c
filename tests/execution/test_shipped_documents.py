"""Every shipped recipe on bundled texts scores enough documents for intervals, on test and on general text."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.plans import build, load_recipe

from peftodyssey.corpora import source
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, estimate_token_counts
from peftodyssey.jobs.index import index as make
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.memory.device import detect
from peftodyssey.models.source import resolve
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe import bundled
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.report import sample_size
from peftodyssey.stats.bootstrap import too_few
from peftodyssey.store import layout, manifest, parquet

MEANINGLESS = ("smoke",)  # says so itself
OFFLINE = [
    name
    for name, _ in bundled.names()
    if name not in MEANINGLESS
    and not name.startswith("ladder-")
    and not any(word in bundled.read(name) for word in ("m2d2/", "hub:", "random/"))
]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the indexes of all recipes lie: many share their texts."""
    return tmp_path_factory.mktemp("indexes")


@pytest.mark.parametrize("name", OFFLINE)
def test_no_interval_of_a_shipped_recipe_is_missing_for_want_of_documents(name: str, indexes: Path) -> None:
    plan, bases = build(load_recipe(name), detect("cpu")), LoadedModels("cpu", 1 << 32)
    tokenizer = bases.tokenizer(plan.cells[0].base)
    notes = {}
    for index in plan.indexes:
        if index.split != "train" and index.split != "valid":
            if manifest.read(indexes / index.folder) is None:
                make(index, indexes, tokenizer)
            notes[index.corpus.name] = too_few(
                parquet.read(indexes / index.folder / layout.DOCUMENTS)["tokens"].to_numpy().astype(float)
            )
    assert notes
    assert not any(notes.values()), notes
    assert list(sample_size.too_small(plan)) == []


def test_check_says_before_a_run_which_texts_are_too_small() -> None:
    """The estimate against the counts of the indexes themselves, which `smoke` makes small on purpose."""
    warnings = list(sample_size.too_small(build(load_recipe("smoke"), detect("cpu"))))
    assert [line.split(",")[0] for line in warnings] == ["arxiv_cs.CL", "wiki_general"]
    assert all("score.tokens, 4,000" in line for line in warnings)
    assert "about 8 effective documents" in warnings[1]


@pytest.mark.parametrize("cap", [None, 9_000])
def test_estimated_tokens_are_near_those_of_the_index(cap: int | None, tmp_path: Path) -> None:
    corpus = source.resolve(CorpusSpec(name="wiki_general", source="bundled/wiki_general"))
    tokenizer = load_tokenizer(resolve("bundled/odyssey-3m"))
    build_index(
        documents(corpus, "test", None), tokenizer, tmp_path, max_tokens=cap, newline="keep", name="wiki_general"
    )
    exact = parquet.read(tmp_path / layout.DOCUMENTS)["tokens"].to_pylist()
    about = estimate_token_counts(documents(corpus, "test", None), tokenizer, cap, "keep")
    assert sum(about) == pytest.approx(sum(exact), rel=0.15)
    assert len(about) == pytest.approx(len(exact), rel=0.2)
