"""Checkpoints that are stored quantised: bitsandbytes' are bases of their own, the others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.damaged import variant
from support.tiny import copy_tokenizer, tiny
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peftodyssey import api
from peftodyssey.errors import ModelError, RecipeError
from peftodyssey.models.load import load
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import QuantSpec

IDS = torch.arange(48)[None] + 7
SETTINGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
RECIPE = """\
version: 1
name: stored
seeds: [0]
model: {name: MODEL}
domains: [bundled/arxiv_cs.CL]
general: [bundled/wiki_general]
methods:
  - {method: METHOD, rank: 2, lr: 1e-2}
train: {budget: 2 steps, seq_len: 64, batch_tokens: 128}
score: {context: 64, stride: 64, tokens: 500}
"""


@pytest.fixture(scope="module", params=list(SETTINGS))
def stored(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    settings = BitsAndBytesConfig(**SETTINGS[request.param])
    model = AutoModelForCausalLM.from_pretrained(
        tiny("llama", folder), quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    model.save_pretrained(folder / request.param)
    copy_tokenizer(folder / request.param)
    return folder / request.param


def test_the_stored_weights_are_the_base(stored):
    source = resolve(str(stored))
    assert source.stored_quant == QuantSpec(stored.name, stored.name == "nf4")
    assert stored.name in source.notes[0]
    plain = AutoModelForCausalLM.from_pretrained(stored, device_map={"": "cpu"}, dtype=torch.float32).train()
    with torch.no_grad():
        assert torch.equal(load(source, precision="fp32")(IDS).logits, plain(IDS).logits)


def test_they_are_not_quantised_again(stored):
    with pytest.raises(ModelError, match="stored as"):
        load(resolve(str(stored)), precision="fp32", quant=QuantSpec("nf4"))


def test_every_part_of_a_stored_weight_is_needed(stored, tmp_path):
    for n, key in enumerate(k for k in load_file(stored / "model.safetensors") if ".1.mlp.down_proj." in k):
        if key.endswith("weight_format"):  # states the layout of int8, of which there is one
            continue
        folder = variant(stored, tmp_path / str(n), lambda t, key=key: {k: v for k, v in t.items() if k != key})
        with pytest.raises(ModelError):
            load(resolve(str(folder)), precision="fp32")


@pytest.mark.parametrize("stored", ["nf4"], indirect=True)  # whose scales are quantised themselves
def test_scales_without_their_own_scales_are_refused_with_their_name(stored, tmp_path):
    lost = "model.layers.0.mlp.up_proj.weight.nested_absmax"
    folder = variant(stored, tmp_path / "model", lambda t: {k: v for k, v in t.items() if k != lost})
    with pytest.raises(ModelError, match="nested_absmax"):
        resolve(str(folder))


@pytest.mark.parametrize(
    "entry",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8", "fmt": "e4m3"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "mxfp4"},
        {"bits": 4},
    ],
)
def test_other_formats_are_refused_by_name(entry, tmp_path):
    folder = variant(tiny("llama", tmp_path), tmp_path / "other", quantization_config=entry)
    with pytest.raises(ModelError, match=entry.get("quant_method", "unknown")) as caught:
        resolve(str(folder))
    assert "nf4" in caught.value.next_step


def recipe(folder, tmp_path, method):
    path = tmp_path / "stored.yaml"
    path.write_text(RECIPE.replace("MODEL", str(folder)).replace("METHOD", method))
    return str(path)


@pytest.mark.slow
def test_lora_trains_on_them_from_their_own_loss(stored, tmp_path):
    plan = api.plan(recipe(stored, tmp_path, "lora"), device="cpu")
    assert any("losses before" in warning for warning in plan.warnings)
    run, outcome, _ = api.run_plan(plan, tmp_path / "out")
    assert run is not None, outcome
    row = run.results.to_pylist()[0]
    assert row["quant"] is None
    scored = api.score(str(stored), "bundled/arxiv_cs.CL", context=64, stride=64, tokens=500, device="cpu")
    assert row["nll_before"] == pytest.approx(scored.rows[0].nll_nats, abs=1e-6)
    assert row["nll_after"] != row["nll_before"]


def test_what_needs_unquantised_weights_is_refused(stored, tmp_path):
    with pytest.raises(RecipeError, match="already"):
        api.plan(recipe(stored, tmp_path, "qlora"), device="cpu")
    path = Path(recipe(stored, tmp_path, "lora"))
    text = path.read_text()
    path.write_text(text + "measure: [geometry]\n")
    with pytest.raises(RecipeError, match="geometry"):
        api.plan(path, device="cpu")
    path.write_text(text.replace("method: lora, rank: 2", "method: full"))
    with pytest.raises(RecipeError, match="full trains the weights"):
        api.plan(path, device="cpu")


def test_null_and_unreadable_entries(tmp_path):
    folder = tiny("llama", tmp_path)
    assert resolve(str(variant(folder, tmp_path / "null", quantization_config=None))).stored_quant is None
    with pytest.raises(ModelError, match="quantization_config"):
        resolve(str(variant(folder, tmp_path / "text", quantization_config="nf4")))
    assert json.loads((folder / "config.json").read_text()).get("quantization_config") is None
