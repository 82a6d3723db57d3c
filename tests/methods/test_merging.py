"""Merging: adapters of a tied head, and bases that bitsandbytes quantised, in what plain transformers loads again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.adapted_models import IDS, logits, max_difference, method_spec
from support.adapted_models import train as train_adapter
from support.peft_adapters import lora_folder
from support.tiny import tiny
from transformers import AutoModelForCausalLM

from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.tied_head import UNTIED
from peftodyssey.models.load import load
from peftodyssey.models.quantised import dequantise
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import QuantSpec

pytestmark = pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")

OPTIONS = {  # kinds of adapters of a base with a tied head -> (options, whether its merge parts the head)
    "plain": ({}, False),
    "head-and-embeddings-apart": ({"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "on-the-head": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "on-embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "head-alone": ({"modules_to_save": ["lm_head"]}, True),
    "token-indices": ({"trainable_token_indices": [5, 6, 7]}, False),
    "dora": ({"use_dora": True}, False),
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_merged_model_reloads_in_plain_transformers(name, tmp_path):
    options, parts = OPTIONS[name]
    base = tiny("qwen2", tmp_path)
    adapter = lora_folder(base, tmp_path / "adapter", **options)
    attached = METHODS["saved"].load(load(resolve(str(base)), precision="fp32"), adapter)
    expected = logits(attached.model)
    merged, facts = METHODS["saved"].merge(attached)
    assert max_difference(logits(merged), expected) < 2e-5
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert max_difference(logits(reloaded), expected) < 2e-5
    assert reloaded.config.tie_word_embeddings == (not parts)
    assert facts["notes"] == ((UNTIED,) if parts else ())
    assert (reloaded.lm_head.weight is reloaded.model.embed_tokens.weight) == (not parts)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_dequantised_base_is_what_the_adapter_was_trained_on(family, kind, tmp_path):
    pytest.importorskip("bitsandbytes")
    source, quant = resolve(str(tiny(family, tmp_path))), QuantSpec(kind, kind != "int8")
    attached = METHODS["qlora"].attach(
        load(source, precision="fp32", quant=quant), method_spec("qlora", quant=quant), 0
    )
    train_adapter(attached)
    METHODS["qlora"].export(attached, tmp_path / "adapter")
    with torch.no_grad():
        expected = attached.model(input_ids=IDS).logits.float()
    plain = dequantise(load(source, precision="fp32", quant=quant))
    tolerance = 2e-5 if kind != "int8" else 0.1  # 8-bit maps round their inputs too
    merged, facts = METHODS["saved"].merge(METHODS["saved"].load(plain, tmp_path / "adapter"))
    assert max_difference(logits(merged), expected) < tolerance
    assert facts["stored_as"] == "float32"
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert type(reloaded) is type(merged)
    assert max_difference(logits(reloaded), logits(merged)) < 1e-6
    assert not hasattr(reloaded.config, "quantization_config")
    original, _ = METHODS["saved"].merge(METHODS["saved"].load(load(source, precision="fp32"), tmp_path / "adapter"))
    assert max_difference(logits(original), expected) > 10 * max_difference(logits(merged), expected)
    assert np.isfinite(logits(original).numpy()).all()
