"""The dropout of a base's config: off when it is loaded, on in full fine-tuning where asked for."""

from __future__ import annotations

import json

import pytest
import torch
from support.tiny import tiny
from support.trainings import sequences
from transformers import AutoModelForCausalLM

from peftodyssey.errors import MethodError
from peftodyssey.methods.registry import METHODS
from peftodyssey.models.attention_dropout import attention_with_dropout
from peftodyssey.models.load import load
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import MethodSpec
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainSettings

IDS = torch.arange(24)[None] + 3
FULL = METHODS["full"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny("gpt2", tmp_path_factory.mktemp("drop"), resid_pdrop=0.1, embd_pdrop=0.2, attn_pdrop=0.3)


def spec(dropout):
    return MethodSpec("full", "full", options={"dropout": dropout})


def trained(folder, dropout="config", **settings):
    model = load(resolve(str(folder)), precision="fp32").double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attached = FULL.attach(model, MethodSpec("full", "full", options={"dropout": dropout, "master_weights": "bf16"}), 0)
    numbers = TrainSettings(lr=1e-3, steps=3, batch_size=4, seed=5, **{"micro_batch_size": 4, **settings})
    train(attached.model, attached.trainable, sequences(), numbers, device="cpu")
    after = {name: p.detach().clone() for name, p in attached.trainable.items()}
    FULL.detach(attached)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    return after, model


def distance(left, right):
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_it_falls_on_the_same_numbers_in_every_micro_batch(gpt2):
    """Law 4."""
    whole, _ = trained(gpt2)
    assert distance(whole, trained(gpt2, dropout="none")[0]) > 1e-5
    for settings in ({"micro_batch_size": 1}, {"micro_batch_size": 3, "gradient_checkpointing": "full"}):
        assert distance(whole, trained(gpt2, **settings)[0]) < 1e-10
    assert distance(whole, trained(gpt2)[0]) == 0


def test_a_base_is_scored_without_and_is_left_without(gpt2):
    model = load(resolve(str(gpt2)), precision="fp32")
    plain = AutoModelForCausalLM.from_pretrained(gpt2).eval()
    with torch.no_grad():
        expected = plain(IDS).logits
        torch.testing.assert_close(model.train()(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        attached = FULL.attach(model, spec("config"), 0)
        rates = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p}
        assert rates == {name: m.p for name, m in plain.named_modules() if isinstance(m, torch.nn.Dropout)}
        assert set(rates.values()) == {0.1, 0.2, 0.3}
        FULL.detach(attached)
        torch.testing.assert_close(model.train()(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_it_is_stated_and_exported(gpt2, tmp_path):
    attached = FULL.attach(load(resolve(str(gpt2)), precision="fp32"), spec("config"), 0)
    assert "embd_pdrop 0.2" in attached.notes[0]
    assert "0.1, 0.2 in 5 modules on hidden states" in attached.notes[0]
    assert "0.3 in 2 modules on attention probabilities" in attached.notes[0]
    FULL.export(attached, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["resid_pdrop"], config["embd_pdrop"], config["attn_pdrop"]) == (0.1, 0.2, 0.3)
    plain = FULL.attach(load(resolve(str(gpt2)), precision="fp32"), spec("none"), 0)
    assert plain.notes == ()


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt_neox", "qwen3", "olmo2"))]
)
def test_attention_probabilities_are_dropped_in_every_family_alike_in_every_micro_batch(family, tmp_path):
    """Law 4, with documents shorter than the sequences; attention alone."""
    key = "attn_pdrop" if family == "gpt2" else "attention_dropout"
    none = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0}, "gpt_neox": {"hidden_dropout": 0.0}}.get(family, {})
    folder = tiny(family, tmp_path, **{key: 0.25}, **none)
    whole, model = trained(folder)
    assert distance(whole, trained(folder, dropout="none")[0]) > 1e-5
    assert distance(whole, trained(folder, micro_batch_size=1, gradient_checkpointing="full")[0]) < 1e-10
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "boolean", "numbers"])
def test_attention_without_a_share_to_drop_is_sdpa_and_with_one_the_expected_value(mask):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 12, 16, dtype=torch.float64) for heads in (4, 2, 2))
    allowed = torch.ones(12, 12, dtype=torch.bool).tril() & (torch.rand(2, 1, 12, 12) > 0.3)
    allowed |= torch.eye(12, dtype=torch.bool)
    numbers = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -1e30)
    given = {"none": None, "boolean": allowed, "numbers": numbers}[mask]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=given, is_causal=given is None, enable_gqa=True
    ).transpose(1, 2)
    same = attention_with_dropout(query, key, value, given, None, 0.5, lambda p, _: p)
    torch.testing.assert_close(same, expected)
    dropped = [
        attention_with_dropout(query, key, value, given, None, 0.5, lambda p, share: torch.dropout(p, share, True))
        for _ in range(2000)
    ]
    mean, error = torch.stack(dropped).mean(0), torch.stack(dropped).std(0) / 2000**0.5
    assert float(((mean - expected) / (error + 1e-12)).abs().max()) < 5


def test_a_base_without_dropout_is_a_sentence(tmp_path):
    with pytest.raises(MethodError, match="no dropout"):
        FULL.attach(load(resolve(str(tiny("llama", tmp_path))), precision="fp32"), spec("config"), 0)
