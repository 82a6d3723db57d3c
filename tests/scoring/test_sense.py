"""Trained weights predict a real text as such; damaged ones, random ones and those of another tokenizer do not."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import pytest
import scipy.stats
import torch
from support.damaged import variant
from support.micro import invoke
from support.scorings import PREFIX, index_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftodyssey import assets
from peftodyssey.models.source import resolve, weights_folder
from peftodyssey.scoring.sense import LOADED, Sense, sense
from peftodyssey.scoring.settings import ScoreSettings

TEXTS = (
    "wiki_general",
    "arxiv_cs.CL",
    "arxiv_math.AG",
    "python_functions",
    "gsm8k",
)  # the last two unlike any trained on


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
            documents = [json.loads(line)["text"] for line in itertools.islice(lines, 20)]
        ids = [tokenizer(document, add_special_tokens=False)["input_ids"] for document in documents]
        found[name] = index_of(np.concatenate(ids).astype(np.int32), [len(i) for i in ids])
    return found


def measured(model, index, prefix=PREFIX):
    return sense(model, index, ScoreSettings(), prefix)


@pytest.mark.parametrize("rung", ["annealed-16M", "trunk-64M", "annealed-1024M"])
def test_every_trained_rung_makes_sense_on_every_text(rung, texts):
    model = bundled(rung)
    assert {name: measured(model, index).problem for name, index in texts.items()} == dict.fromkeys(TEXTS, "")
    assert not measured(model, texts["wiki_general"], prefix=None).problem


@pytest.mark.parametrize("damage", ["init", "embedding", "head", "norms", "first layer"])
def test_without_its_weights_it_does_not(damage, texts):
    model = bundled("init" if damage == "init" else "annealed-1024M")
    torch.manual_seed(0)
    if damage == "embedding":  # the ids of another tokenizer
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        shuffled = model.model.embed_tokens.weight[torch.randperm(4096)]
        model.model.embed_tokens.weight = torch.nn.Parameter(shuffled.clone())
    if damage == "head":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(4096, 192) * 0.05)
    for name, parameter in model.named_parameters():
        if damage == "norms" and parameter.ndim == 1:
            parameter.data /= 30
        if damage == "first layer" and ".layers.0." in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    assert all(measured(model, index).problem for index in texts.values())


def test_the_comparisons_are_those_of_plain_transformers(texts):
    model, index = bundled("annealed-64M"), texts["wiki_general"]
    p, target = [], []
    for start, end in itertools.pairwise(index.starts.tolist()):
        ids = [PREFIX, *index.token[start:end].tolist()][: min(256, 1024 - len(target)) + 1]
        with torch.no_grad():
            p.append(model(torch.tensor([ids[:-1]])).logits[0].double().softmax(-1))
        target += ids[1:]
        if len(target) == 1024:
            break
    p = torch.cat(p)
    own, average = -p[range(1024), target].log().numpy(), -p.mean(0)[target].log().numpy()
    counts = collections.Counter(index.token.tolist())
    once, total = sum(count == 1 for count in counts.values()), len(index.token)
    frequency = [(1 - once / total) * (counts[t] - 1) / (total - 1) + once / total / 4096 for t in target]
    halfway = (np.log(4096) - np.log(frequency)) / 2
    got = measured(model, index)
    assert got.tokens == 1024
    assert got.nll_nats == pytest.approx(own.mean(), abs=1e-5)
    for label, other in (("average", average), ("halfway", halfway)):
        assert getattr(got, f"{label}_nll_nats") == pytest.approx(other.mean(), abs=1e-5)
        error = scipy.stats.sem((other - own).reshape(32, 32).mean(1))
        name = "standard_error_nats" if label == "average" else "halfway_error_nats"
        assert getattr(got, name) == pytest.approx(error, rel=1e-4)


def test_two_standard_errors_decide_in_both_comparisons():
    fine = Sense(1024, 5.0, 5.21, 0.1, 6.21, 0.6)
    assert not fine.problem
    assert "5.190" in fine._replace(average_nll_nats=5.19).problem
    assert "6.190" in fine._replace(halfway_nll_nats=6.19).problem
    assert not fine._replace(tokens=63, average_nll_nats=4.0).problem, "too few to tell"


def test_score_says_so_and_not_of_random_weights(tmp_path):
    folder = weights_folder(resolve("bundled/odyssey-3m"))
    head = {"lm_head.weight": torch.randn(4096, 192, generator=torch.Generator().manual_seed(0)) * 0.05}
    bad = variant(folder, tmp_path / "bad", lambda t: t | head, tie_word_embeddings=False)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bad / file).write_bytes((assets.model_files("odyssey-3m") / file).read_bytes())
    arguments = ("bundled/wiki_general", "--tokens", "1k", "--context", "256", "--device", "cpu")
    assert LOADED in invoke("score", bad, *arguments).stderr
    assert LOADED not in invoke("score", "bundled/odyssey-3m", *arguments).stderr
    assert LOADED not in invoke("score", "bundled/odyssey-3m", *arguments, "--revision", "init").stderr
