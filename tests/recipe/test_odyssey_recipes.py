"""The recipes of the paper's experiment: within an epoch, marked line by line, within their GPUs, and they run in
small.
"""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.gpus import GIB, gpu
from support.plans import build, load_recipe

from peftodyssey import api, assets
from peftodyssey.corpora import m2d2
from peftodyssey.memory.device import detect
from peftodyssey.models import source
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.plan import host_and_disk
from peftodyssey.recipe import bundled
from peftodyssey.recipe.grid import cells

HUB = {
    "odyssey-gpt2": ["model=[random/gpt2, random/gpt2-large, random/gpt2-xl]"],
    "odyssey-olmo1b": ["model=random/olmo-1b"],
    "odyssey-llama7b": ["model.name=random/llama-7b"],
}
NAMES = ["odyssey", "odyssey-quick", *HUB]
MARKS = r"\[(paper|ours|not published)\]"
SETTINGS = re.compile(r"^  (?:- |\w+: )|^(?:seeds|general|pretraining_text|score): ")


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every M2D2 config that a recipe names, spelt as it is there, as a folder of lines."""
    monkeypatch.setenv(m2d2.FOLDER_VARIABLE, str(tmp_path))
    for name in HUB:
        for corpus in load_recipe(name).domains:
            folder = tmp_path / str(corpus.source).removeprefix("m2d2/")
            folder.mkdir(exist_ok=True)
            for split, lines in (("train", 300), ("valid", 40), ("test", 40)):
                text = f"{folder.name} {split}: a sentence of some words.\n\nAnd another.\n" * lines
                (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_bundled_experiment_is_full_lora_and_qlora_on_every_domain_with_three_seeds() -> None:
    all_cells = cells(load_recipe("odyssey"))
    domains = [name for name in assets.corpora() if assets.corpus_kind(name) == "domain"]
    assert {c.domain.source for c in all_cells} == {f"bundled/{name}" for name in domains}
    assert {c.method.method for c in all_cells} == {"full", "lora", "qlora"}
    assert {c.seed for c in all_cells} == {0, 1, 2}
    assert {c.model.revision for c in all_cells} == {"annealed-1024M"}
    assert all(c.method.tuned for c in all_cells)
    assert len({c.train for c in all_cells}) == 1


@pytest.mark.slow
def test_no_text_is_seen_twice() -> None:
    tokenizer = load_tokenizer(source.resolve("bundled/odyssey-3m"))

    @functools.cache
    def tokens(domain: str) -> int:
        lines = assets.open_corpus(domain, "train").read().decode("utf-8").splitlines()
        return sum(len(tokenizer.encode(json.loads(line)["text"])[0]) for line in lines)

    for name in ("odyssey", "odyssey-quick"):
        all_cells = cells(load_recipe(name))
        train = all_cells[0].train
        trained = math.ceil(train.budget_tokens / train.batch_tokens) * train.batch_tokens
        for domain in {c.domain.source.removeprefix("bundled/") for c in all_cells}:
            assert trained <= tokens(domain), domain


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_whose_it_is(name: str) -> None:
    block, bare = False, []
    for line in bundled.read(name).splitlines():
        opened = re.match(r"^(\w+):\s*(#.*)?$", line)
        if opened:
            block = bool(re.search(MARKS, line))  # what heads a list speaks for its items
        elif SETTINGS.match(line) and not (block and line.startswith("  - ")) and not re.search(MARKS, line):
            bare.append(line)
    assert bare == []
    assert all(f"[{mark}]" in bundled.read(name) for mark in ("paper", "ours", "not published"))


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_check_where_its_models_and_texts_are_at_hand(name: str, texts: Path) -> None:
    plan = build(load_recipe(name, HUB.get(name, [])), detect())
    assert plan.cells
    assert all(task.entry["texts"]["transfer"] for task in plan.cells)
    assert {"degradation", "forgetting", "tokens", "transfer"} <= set(load_recipe(name).measured)


@pytest.mark.parametrize("name", HUB)
def test_it_fits_24_gb(name: str, texts: Path, tmp_path: Path) -> None:
    for budget in (22, 24):
        plan = build(load_recipe(name, HUB[name]), gpu(24, host_gib=48), budget * GIB)
        assert plan.too_large == ()
        assert host_and_disk.problems(plan, tmp_path) == []


def test_m2d2_is_spelt_as_published() -> None:
    for name in HUB:
        sources = {corpus.source for corpus in load_recipe(name).domains}
        assert {"m2d2/General_referece", "m2d2/Human_activites"} <= sources


@pytest.mark.parametrize("name", ["odyssey-gpt2", "odyssey-olmo1b"])
def test_twenty_texts_are_half_from_wikipedia_and_half_from_s2orc(name: str) -> None:
    configs = [str(corpus.source).removeprefix("m2d2/") for corpus in load_recipe(name).domains]
    assert len(set(configs)) == len(configs) == 20
    assert set(configs) <= set(m2d2.L1)
    assert sum(config in m2d2.WIKIPEDIA for config in configs) == 10


@pytest.mark.parametrize("name", ["odyssey-gpt2", "odyssey-olmo1b"])
def test_the_general_texts_that_it_offers_are_read(name: str) -> None:
    lines = bundled.read(name).splitlines()
    offered = lines.index("# general:")
    text = "\n".join(line.removeprefix("# ") for line in lines[offered : offered + 4])
    rest = "\n".join(line for line in lines if not line.startswith("general:"))
    assert [str(corpus.source) for corpus in load_recipe(f"{rest}\n{text}\n").general] == [
        "bundled/wiki_general",
        "hub:allenai/c4",
        "hub:NeelNanda/pile-10k",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_end_to_end_in_small(name: str, texts: Path, tmp_path: Path) -> None:
    small = [
        "train.budget=2 steps",
        "train.seq_len=64",
        "train.batch_tokens=128",
        "score.context=64",
        "score.stride=64",
        "score.tokens=1k",
        "seeds=0",
        "methods[0].lr=1e-3",
        "methods[1].lr=1e-2",
        "train.eval_at=100%",
    ]
    tiny = {
        "odyssey-gpt2": "model=[random/tiny-gpt2]",
        "odyssey-olmo1b": "model=random/tiny-olmo",
        "odyssey-llama7b": "model.name=random/tiny-llama",
    }
    two = (
        "domains=[m2d2/General_referece, m2d2/Art]"
        if name in HUB
        else "domains=[bundled/arxiv_cs.CL, bundled/code_python_stdlib]"
    )
    third = [] if name in HUB else ["methods[2].lr=1e-2"]
    plan = api.plan(api.load(name, [*small, two, *third, *([tiny[name]] if name in tiny else [])]), device="cpu")
    run, outcome, _ = api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    assert run is not None
    assert not outcome.failed
    assert {row["status"] for row in run.results.to_pylist()} == {"done"}
    assert len(run.query("select * from transfer where not in_domain").to_pylist()) == len(plan.cells)
