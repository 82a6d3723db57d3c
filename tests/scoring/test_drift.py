"""Losses and KL of two models on one text against logits and distributions that are computed whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.indexes import hand_index
from support.scorings import PREFIX, plain_logits, point, tiny_model

from peftodyssey.corpora.index import whole_documents
from peftodyssey.scoring.drift import compare_logits, drift
from peftodyssey.scoring.settings import ScoreSettings


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_losses_and_kl_are_those_of_whole_distributions(family):
    before, after = tiny_model(family, seed=0), tiny_model(family, seed=1)
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 200, n).tolist() for n in (5, 70, 1, 33)]
    index = hand_index(documents)
    found = drift(before, after, index, point(32, 16), ScoreSettings(batch_tokens=64), PREFIX)
    log_p, log_q = (
        torch.cat([plain_logits(model, text, 32, 16) for text in documents]).double().log_softmax(-1)
        for model in (before, after)
    )
    target = torch.from_numpy(index.token.astype(np.int64))[:, None]
    np.testing.assert_allclose(found.before_nll_nats, -log_p.gather(1, target)[:, 0], atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(found.after_nll_nats, -log_q.gather(1, target)[:, 0], atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(found.kl_nats, (log_p.exp() * (log_p - log_q)).sum(-1), atol=1e-4, rtol=1e-4)


def test_prompts_are_not_scored_and_a_model_does_not_drift_from_itself():
    model = tiny_model("llama")
    index = hand_index([[5, 6, 7, 8]], trained=[[False, False, True, True]])
    found = drift(model, model, index, point(8, 8), ScoreSettings(), PREFIX)
    assert np.isnan(found.kl_nats).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(found.before_nll_nats, found.after_nll_nats)
    np.testing.assert_allclose(found.kl_nats[2:], 0, atol=1e-6)


def test_tokens_without_probability_add_nothing():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert compare_logits(logits, logits, torch.tensor([0]))[2].tolist() == [0.0]


@pytest.mark.parametrize("cap", [1, 7, 30, 10_000])
def test_whole_documents_up_to_a_cap(cap):
    documents = [[number] * length for number, length in enumerate((9, 4, 12, 1, 6, 6))]
    index = hand_index(documents)
    taken = whole_documents(index, cap)
    lengths = [len(documents[number]) for number in np.unique(taken.document)]
    assert np.diff(taken.starts).tolist() == [min(length, cap) for length in lengths]
    assert len(taken.token) >= min(cap, len(index.token))
    assert len(taken.token) - np.diff(taken.starts).max() < cap or cap >= len(index.token)
    np.testing.assert_array_equal(taken.token, taken.document)
    assert sorted(taken.document.tolist()) == taken.document.tolist()
