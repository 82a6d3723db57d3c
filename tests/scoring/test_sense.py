"""A model predicts a real text better than its own average; without its weights, or with another tokenizer, not."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from support.damaged import variant
from support.micro import invoke
from support.scorings import PREFIX, index_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftodyssey import assets
from peftodyssey.models.source import resolve, weights_folder
from peftodyssey.scoring.sense import NONSENSE, sense
from peftodyssey.scoring.settings import ScoreSettings

TEXTS = ("wiki_general", "arxiv_cs.CL", "arxiv_math.AG")


def bundled(rung):
    return AutoModelForCausalLM.from_pretrained(
        weights_folder(resolve("bundled/odyssey-3m", rung)), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def texts():
    tokenizer = AutoTokenizer.from_pretrained(assets.unpack_model("odyssey-3m"))
    found = {}
    for name in TEXTS:
        with assets.open_corpus(name, "test") as lines:
            documents = [json.loads(line)["text"] for line in itertools.islice(lines, 4)]
        ids = [tokenizer(document, add_special_tokens=False)["input_ids"] for document in documents]
        found[name] = index_of(np.concatenate(ids).astype(np.int32), [len(i) for i in ids])
    return found


def measured(model, index, prefix=PREFIX):
    return sense(model, index, ScoreSettings(), prefix)


@pytest.mark.parametrize("rung", ["annealed-16M", "trunk-64M", "annealed-1024M"])
def test_every_trained_rung_makes_sense_on_every_text(rung, texts):
    model = bundled(rung)
    assert {name for name, index in texts.items() if measured(model, index).makes_sense} == set(TEXTS)
    assert measured(model, texts["wiki_general"], prefix=None).makes_sense


@pytest.mark.parametrize("damage", ["init", "embedding", "head"])
def test_without_its_weights_it_does_not(damage, texts):
    model = bundled("init" if damage == "init" else "annealed-1024M")
    torch.manual_seed(0)
    if damage == "embedding":  # the ids of another tokenizer
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        shuffled = model.model.embed_tokens.weight[torch.randperm(4096)]
        model.model.embed_tokens.weight = torch.nn.Parameter(shuffled.clone())
    if damage == "head":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(4096, 192) * 0.05)
    assert not any(measured(model, index).makes_sense for index in texts.values())


def test_the_comparison_is_that_of_plain_transformers(texts):
    model, index = bundled("annealed-64M"), texts["wiki_general"]
    ids = [PREFIX, *index.token[: index.starts[1]].tolist()][:257]
    assert len(ids) == 257
    with torch.no_grad():
        p = model(torch.tensor([ids[:-1]])).logits[0].double().softmax(-1)
    target = torch.tensor(ids[1:])
    own, average = -p[range(256), target].log(), -p.mean(0)[target].log()
    got = measured(model, index)
    assert got.tokens == 256
    assert got.nll_nats == pytest.approx(own.mean().item(), abs=1e-5)
    assert got.average_nll_nats == pytest.approx(average.mean().item(), abs=1e-5)
    assert got.standard_error_nats == pytest.approx((average - own).std().item() / 16, rel=1e-4)


def test_score_says_so_and_not_of_random_weights(tmp_path):
    folder = weights_folder(resolve("bundled/odyssey-3m"))
    head = {"lm_head.weight": torch.randn(4096, 192, generator=torch.Generator().manual_seed(0)) * 0.05}
    bad = variant(folder, tmp_path / "bad", lambda t: t | head, tie_word_embeddings=False)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bad / file).write_bytes((assets.model_files("odyssey-3m") / file).read_bytes())
    arguments = ("bundled/wiki_general", "--tokens", "1k", "--context", "256", "--device", "cpu")
    assert NONSENSE in invoke("score", bad, *arguments).stderr
    assert NONSENSE not in invoke("score", "bundled/odyssey-3m", *arguments).stderr
    assert NONSENSE not in invoke("score", "bundled/odyssey-3m", *arguments, "--revision", "init").stderr
