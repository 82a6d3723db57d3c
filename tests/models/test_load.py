"""Loaded bases: every family, every storage, and scoring that leaves gradients and bytes alone."""

from __future__ import annotations

import pytest
import torch
from support.tiny import FAMILIES, tiny
from transformers import AutoModelForCausalLM
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from peftodyssey.models import lm_head, varlen_attention
from peftodyssey.models.load import linear_names, load
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.models.scoring_mode import set_scoring_mode
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import QuantSpec

NF4 = QuantSpec("nf4")
QUANTS = [NF4, QuantSpec("nf4", double_quant=False), QuantSpec("fp4"), QuantSpec("int8")]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return tiny(request.param, tmp_path_factory.mktemp("tiny"))


def ids(rows: int = 2, length: int = 48) -> torch.Tensor:
    return torch.randint(0, 4096, (rows, length), generator=torch.Generator().manual_seed(3))


def test_logits_are_those_of_plain_transformers_in_training_mode_too(folder):
    model = load(resolve(str(folder)), precision="fp32")
    eager = (
        {"attn_implementation": "eager"} if "gemma2" in folder.name else {}
    )  # transformers 5.17 takes sdpa, which leaves out the cap
    plain = AutoModelForCausalLM.from_pretrained(folder, **eager).eval()
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(ids()).logits, plain(ids()).logits, rtol=1e-5, atol=1e-5)
    expected = [m.name for m in shape_from_config(resolve(str(folder)).config).linears]
    assert linear_names(model) == expected


@pytest.mark.parametrize("quant", QUANTS, ids=lambda q: f"{q.kind}-{q.double_quant}")
def test_quantised_layers_are_near_the_full_ones(folder, quant):
    model = load(resolve(str(folder)), precision="fp32", quant=quant)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert linear_names(model) == [m.name for m in shape_from_config(resolve(str(folder)).config).linears]
    for name in linear_names(model):
        stored, full = model.get_submodule(name), plain.get_submodule(name)
        assert type(stored).__name__ == ("Linear8bitLt" if quant.kind == "int8" else "Linear4bit")
        x = torch.randn(8, stored.in_features, generator=torch.Generator().manual_seed(0))
        expected, bound = full(x), 0.03 if quant.kind == "int8" else 0.2
        assert (stored(x) - expected).norm() / expected.norm() < bound, name


def adapted(folder, quant):
    from peft import LoraConfig, get_peft_model

    model = load(resolve(str(folder)), precision="fp32", quant=quant)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=linear_names(model), init_lora_weights=False, lora_dropout=0.5)
    return get_peft_model(model, config)


def loss_and_gradients(model):
    torch.manual_seed(5)
    model.train()
    loss = model(ids(), labels=ids()).loss
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def stored_bytes(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if type(p).__name__ == "Params4bit"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scoring_first_changes_neither_gradients_nor_bytes(family, tmp_path):
    folder = tiny(family, tmp_path)
    alone = loss_and_gradients(adapted(folder, NF4))
    model = adapted(folder, NF4)
    before = stored_bytes(model)
    with torch.no_grad():
        first, again = (set_scoring_mode(model)(ids()).logits for _ in range(2))
    assert torch.equal(first, again)  # adapters' dropout is off
    after_scoring = loss_and_gradients(model)
    assert after_scoring[0] == alone[0]
    assert all(torch.equal(alone[1][name], after_scoring[1][name]) for name in alone[1])
    assert before
    assert all(torch.equal(before[name], now) for name, now in stored_bytes(model).items())


@pytest.mark.parametrize("quant", [None, *QUANTS], ids=lambda q: f"{q.kind}-{q.double_quant}" if q else "full")
@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-gpt2", "tiny-gpt_neox", "tiny-gemma3_text"])
def test_random_models_repeat_and_have_the_initial_spread(shape, quant):
    first, second = (load(resolve(f"random/{shape}"), precision="fp32", quant=quant) for _ in range(2))
    with torch.no_grad():
        logits = first(ids()).logits
        assert torch.equal(logits, second(ids()).logits)
    assert logits.isfinite().all()
    name = next(n for n in linear_names(first) if n.endswith(("up_proj", "c_fc", "dense_h_to_4h")))
    module = first.get_submodule(name)
    weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
    assert weight.float().std().item() == pytest.approx(0.1, rel=0.05)
    assert not any(t.is_meta for t in [*first.parameters(), *first.buffers()])


def test_random_quantised_keeps_the_buffers_of_the_full_model():
    full = load(resolve("random/tiny-gemma3_text"), precision="fp32")
    stored = load(resolve("random/tiny-gemma3_text"), precision="fp32", quant=NF4)
    expected, actual = dict(full.named_buffers()), dict(stored.named_buffers())
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert stored.get_output_embeddings().weight is stored.get_input_embeddings().weight


def lengths_to_rows(rows):
    positions = [[i for length in row for i in range(length)] for row in rows]
    segments = [[s for s, length in enumerate(row) for _ in range(length)] for row in rows]
    return torch.tensor(positions), torch.tensor(segments)


@pytest.mark.parametrize("how", ["ends", "positions", "mask"])
@pytest.mark.parametrize("rows", [[[60, 1, 35]], [[60, 1, 35], [96], [5, 40, 51]]])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_packed_segments_equal_separate_documents(folder, rows, mode, how, monkeypatch):
    monkeypatch.setattr(varlen_attention, "MIN_VARLEN_TOKENS_CPU", 1)
    model = load(resolve(str(folder)), precision="fp32").train(mode == "train")
    eager = model.config._attn_implementation == "eager"
    assert eager == ("gemma2" in folder.name)
    if how != "ends" and not eager:
        model.config._attn_implementation = "sdpa"
    if how == "mask":
        monkeypatch.setattr(varlen_attention, "FAMILIES", frozenset())
    positions, segments = lengths_to_rows(rows)
    packed = ids(len(rows), 96)
    inputs = packed_inputs(model, packed, positions, segments)
    given = inputs.get("attention_mask")
    dtypes = {"ends": torch.int32, "positions": None, "mask": torch.bool}
    if not eager:
        assert getattr(next(iter(given.values())) if isinstance(given, dict) else given, "dtype", None) == dtypes[how]
    with torch.no_grad():
        together = model(**inputs).logits
        for row, lengths in enumerate(rows):
            start = 0
            for length in lengths:
                alone = model(packed[row : row + 1, start : start + length]).logits[0]
                torch.testing.assert_close(together[row, start : start + length], alone, rtol=1e-5, atol=1e-5)
                start += length


def test_segments_that_positions_do_not_show_get_a_mask(tmp_path):
    model = load(resolve(str(tiny("llama", tmp_path))), precision="fp32")
    positions = torch.arange(8)[None]
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    first = ids(1, 8)
    second = first.clone()
    second[0, :4] += 1
    with torch.no_grad():
        logits = [model(**packed_inputs(model, x % 4096, positions, segments)).logits for x in (first, second)]
    torch.testing.assert_close(logits[0][0, 4:], logits[1][0, 4:])


def test_head_split_gives_the_models_logits_or_is_refused(folder):
    model = load(resolve(str(folder)), precision="fp32")
    parts = lm_head.split_lm_head(model)
    assert (parts is None) == ("gemma2" in folder.name)
    if parts:
        with torch.no_grad():
            assert torch.equal(parts[1](parts[0](input_ids=ids()).last_hidden_state), model(ids()).logits)


@pytest.mark.parametrize("quant", [None, NF4])
def test_head_split_sees_adapters(quant, tmp_path):
    model = adapted(tiny("llama", tmp_path), quant)
    modes = [m.training for m in model.modules()]
    backbone, linear = lm_head.split_lm_head(model)
    assert modes == [m.training for m in model.modules()]
    set_scoring_mode(model)
    with torch.no_grad():
        expected = model(ids()).logits
        assert torch.equal(linear(backbone(input_ids=ids()).last_hidden_state), expected)
        with model.disable_adapter():
            assert not torch.equal(model(ids()).logits, expected)


def test_dropout_in_a_config_is_switched_off(tmp_path):
    folder = tiny("gpt2", tmp_path, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    model = load(resolve(str(folder)), precision="fp32")
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, model(ids()).logits)


def test_loading_says_nothing(tmp_path, capfd):
    tiny("llama", tmp_path)
    capfd.readouterr()
    load(resolve(str(tmp_path / "tiny-llama-0")), precision="fp32", quant=NF4)
    assert capfd.readouterr() == ("", "")
