"""Divergence from the base against a plain loop over two models in float64, and the terms of forgetting."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from support.adapted_models import SPECS, frozen_digest, method_spec, tiny_model, train
from support.indexes import hand_index

from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.without_update import without_update
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring import divergence as module
from peftodyssey.scoring.divergence import divergence
from peftodyssey.scoring.settings import ScoreSettings

SPEC = ScoreSpec(context=16, stride=16, tokens=None, first_token="skip", mode="documents")
DOCUMENTS = [list(range(1, 15)), list(range(20, 33))]


def plain(base, tuned):
    """KL and changed first guesses of every token but the first of each document, by whole logits in float64."""
    kl, changed = [], []
    for ids in DOCUMENTS:
        with torch.no_grad():
            p, q = (
                model.eval()(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
                for model in (base, tuned)
            )
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        changed += (p.argmax(-1) != q.argmax(-1)).double().tolist()
    return np.array(kl), np.array(changed)


@pytest.mark.parametrize("name", ["full", "lora", "rslora-dora", "pissa", "ia3", "bitfit"])
def test_it_is_that_of_a_plain_loop_over_two_models(name, monkeypatch):
    monkeypatch.setattr(module, "HELD_STATES_BYTES", 1)  # a batch at a time
    family = "gpt2" if name == "bitfit" else "llama"
    model, spec = tiny_model(family), SPECS[name]
    attached = METHODS[spec.method].attach(model, spec, 0)
    train(attached)
    digest = frozen_digest(attached.model)
    found = divergence(
        attached.model, partial(without_update, attached), hand_index(DOCUMENTS), SPEC, ScoreSettings(), prefix=None
    )
    assert frozen_digest(attached.model) == digest
    kl, changed = plain(tiny_model(family), attached.model)
    scored = ~np.isnan(found.kl_nats)
    assert scored.sum() == len(kl)
    assert kl.mean() > 1e-4
    np.testing.assert_allclose(found.kl_nats[scored], kl, atol=1e-5)
    np.testing.assert_array_equal(found.changed[scored], changed)


def test_without_an_update_nothing_diverges():
    attached = METHODS["lora"].attach(tiny_model("llama"), method_spec("lora"), 0)
    found = divergence(
        attached.model, partial(without_update, attached), hand_index(DOCUMENTS), SPEC, ScoreSettings(), prefix=None
    )
    assert np.nanmax(found.kl_nats) == 0
    assert np.nanmax(found.changed) == 0
