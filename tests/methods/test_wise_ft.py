"""WiSE-FT: share 0 is the base, share 1 the adapted model, and between them lies the merged matrix of so much of the
update.
"""

from __future__ import annotations

import pytest
import torch
from support.tiny import tiny

from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.wise_ft import scaled_update
from peftodyssey.recipe.cell import MethodSpec

SPECS = {
    "full": MethodSpec("full", "full", lr=1e-3),
    "last_layers": MethodSpec("last_layers", "last", lr=1e-3, options={"layers": 1}),
    "lora": MethodSpec("lora", "lora", lr=1e-3, rank=4, alpha=8.0, targets="all-linear"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("wise"))


def logits(model):
    with torch.no_grad():
        return model(torch.arange(40).reshape(2, 20)).logits


def adapted(folder, name):
    """(base's logits, the method on the base with its weights moved as a training moves them, all of one model)."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    before = logits(base)
    attached = METHODS[name].attach(base, SPECS[name], 0)
    attached.model.eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attached.trainable.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return before, attached


@pytest.mark.parametrize("name", SPECS)
def test_the_ends_are_the_base_and_the_adapted_model_and_the_bits_come_back(folder, name):
    before, attached = adapted(folder, name)
    after, trained = logits(attached.model), {n: p.clone() for n, p in attached.trainable.items()}
    assert (after - before).abs().max() > 0.01
    with scaled_update(attached) as to_share:
        to_share(0.0)
        assert (logits(attached.model) - before).abs().max() < 1e-6
        to_share(0.3)
        assert min((logits(attached.model) - end).abs().max() for end in (before, after)) > 1e-3
        to_share(1.0)
        assert (logits(attached.model) - after).abs().max() < 1e-6
        to_share(0.5)
    assert all(torch.equal(trained[n], p) for n, p in attached.trainable.items())
    assert torch.equal(logits(attached.model), after)


@pytest.mark.parametrize("name", SPECS)
def test_a_share_is_a_share_of_the_merged_matrix(folder, name):
    """Oracle: PEFT's own merge, and the weights of the two models averaged by hand."""
    from transformers import AutoModelForCausalLM

    _, attached = adapted(folder, name)
    with scaled_update(attached) as to_share:
        to_share(0.25)
        scaled = logits(attached.model)
    merged, _ = METHODS[name].merge(attached)
    mixed = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        for (_, own), (_, other) in zip(mixed.named_parameters(), merged.named_parameters(), strict=True):
            own.mul_(0.75).add_(other, alpha=0.25)
    assert (logits(mixed) - scaled).abs().max() < 1e-5
