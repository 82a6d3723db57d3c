"""Law 1 on the bundled model and real text: against a plain transformers loop and lm-eval's rolling log-likelihood."""

import itertools
import json

import numpy as np
import pytest
import torch
from support.scorings import PREFIX, index_of, plain_logits, plain_nll, point
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftodyssey import assets
from peftodyssey.models.patching import patch_model
from peftodyssey.scoring.nll import mean_nats, score_index
from peftodyssey.scoring.settings import ScoreSettings

CONTEXT = 256
DOCUMENTS = 5


@pytest.fixture(scope="module")
def folder():
    return assets.unpack_model("odyssey-3m")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def texts(folder):
    """The first general test documents, as tokens (list of lists) and as text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with assets.open_corpus("wiki_general", "test") as lines:
        documents = [json.loads(line)["text"] for line in itertools.islice(lines, DOCUMENTS)]
    return tokenizer, documents, [tokenizer(d, add_special_tokens=False)["input_ids"] for d in documents]


@pytest.mark.parametrize(("stride", "layout"), [(128, "padded"), (128, "packed"), (256, "padded")])
def test_real_text_equals_a_plain_transformers_loop(model, texts, stride, layout):
    _, _, ids = texts
    index = index_of(np.concatenate(ids).astype(np.int32), [len(i) for i in ids])
    got = score_index(model, index, point(CONTEXT, stride), ScoreSettings(layout=layout), prefix=PREFIX)
    plain = np.concatenate([plain_nll(model, text, CONTEXT, stride) for text in ids])
    assert len(plain) > 1000
    assert np.abs(got.nll_nats - plain).max() < 1e-5
    assert abs(mean_nats(got.nll_nats) - plain.mean(dtype=np.float64)) < 1e-6
    one = score_index(model, index, point(CONTEXT, stride), ScoreSettings(batch_tokens=1, layout=layout), prefix=PREFIX)
    assert abs(mean_nats(got.nll_nats) - mean_nats(one.nll_nats)) < 1e-6


def test_ranks_of_real_text(model, texts):
    ids = texts[2][0]
    got = score_index(
        model, index_of(np.array(ids, np.int32), [len(ids)]), point(CONTEXT, 128), ScoreSettings(), prefix=PREFIX
    )
    logits = plain_logits(model, ids, CONTEXT, 128).numpy()
    place = (np.argsort(-logits, axis=1, kind="stable") == np.array(ids)[:, None]).argmax(1) + 1
    assert np.mean(got.rank == place) > 0.999  # two logits may swap in their last bit
    assert np.abs(got.rank - place).max() <= 1


def test_document_sums_are_lm_evals_rolling_log_likelihood(model, texts):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer, documents, ids = texts
    index = index_of(np.concatenate(ids).astype(np.int32), [len(i) for i in ids])
    got = score_index(model, index, point(CONTEXT, CONTEXT), ScoreSettings(), prefix=PREFIX).nll_nats.astype(np.float64)
    ours = [got[a:b].sum() for a, b in itertools.pairwise(index.starts)]
    harness = HFLM(pretrained=model, tokenizer=tokenizer, max_length=CONTEXT, batch_size=1)
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(documents)]
    theirs = [-value for value in harness.loglikelihood_rolling(requests, disable_tqdm=True)]
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_patched_forward_passes_score_what_the_modules_score(folder, texts, layout):
    """In float64, where only a mistake would show."""
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = texts[2][0]
    index = index_of(np.array(ids, np.int32), [len(ids)])

    def scored():
        return score_index(exact, index, point(CONTEXT, 128), ScoreSettings(layout=layout), prefix=PREFIX)

    unpatched = scored()
    with patch_model(exact, None):
        assert any("forward" in vars(module) for module in exact.modules())
        patched = scored()
    assert np.abs(unpatched.nll_nats - patched.nll_nats).max() < 1e-6  # the head's float32
    assert np.array_equal(unpatched.rank, patched.rank)
