"""A checkpoint that is labelled as another family is refused, as far as its files show it."""

from __future__ import annotations

import json
import random

import pytest
import torch
from support import micro
from support.damaged import variant
from support.peft_adapters import lora_folder
from support.tiny import tiny
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from peftodyssey import assets
from peftodyssey.errors import MethodError, ModelError
from peftodyssey.methods import saved
from peftodyssey.methods.registry import METHODS
from peftodyssey.models.load import load
from peftodyssey.models.shape_from_config import FAMILIES
from peftodyssey.models.source import planned_config, resolve, weights_folder
from peftodyssey.models.stated_family import KNOWN, check_stated_family
from peftodyssey.scoring.sense import LOADED

SCORE = ("bundled/wiki_general", "--tokens", "1k", "--context", "256", "--device", "cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize("label", ["gemma", "mistral", "granite", "helium", "ernie4_5", "smollm3"])
def test_llama_weights_under_another_name_are_refused(label, llama, tmp_path):
    """Each of these has tensors of Llama's names and shapes: transformers loads them without a word."""
    folder = variant(llama, tmp_path / label, model_type=label)
    for read in (lambda: resolve(str(folder)), lambda: planned_config(str(folder))):
        with pytest.raises(ModelError, match=rf"model_type '{label}', but architectures LlamaForCausalLM") as caught:
            read()
        assert "set model_type to 'llama'" in caught.value.next_step
    ended = micro.invoke("score", folder, *SCORE)
    assert ended.returncode == 2
    assert "contradicts itself" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_family_of_transformers_contradicts_itself():
    for family, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        for one in [name] if isinstance(name, str) else name:
            assert check_stated_family("x", {"model_type": family, "architectures": [one]}) == [], family


def test_every_pair_of_known_families_is_a_contradiction():
    assert set(FAMILIES) <= set(KNOWN)
    for family in KNOWN:
        for other in KNOWN:
            config = {"model_type": family, "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[other]]}
            if family != other:
                with pytest.raises(ModelError, match="contradicts itself"):
                    check_stated_family("x", config)


@pytest.mark.parametrize(
    "architectures", [None, [], ["LlamaModel"], ["LLaMAForCausalLM"], ["LlavaForConditionalGeneration"]]
)
def test_what_states_no_other_family_is_taken(architectures):
    assert check_stated_family("x", {"model_type": "llama", "architectures": architectures}) == []


def test_a_class_of_its_own_is_told(llama, tmp_path):
    [note] = resolve(str(variant(llama, tmp_path / "own", architectures=["OwnForCausalLM"]))).notes
    assert "OwnForCausalLM; it is loaded as 'llama'" in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "frobnicate", "architectures": None}, "does not know the model family 'frobnicate'"),
        ({"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 16}, "of another shape"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "num_attention_heads: 5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0|in the weights but not in the model"),
        ({"num_hidden_layers": 1}, "in the weights but not in the model"),
    ],
)
def test_sizes_that_are_not_those_of_the_weights_are_refused_by_every_verb(changes, words, llama, tmp_path):
    folder = variant(llama, tmp_path / "other", **changes)
    with pytest.raises(ModelError, match=words):
        load(resolve(str(folder)), precision="fp32")
    ended = micro.invoke("score", folder, *SCORE)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("value", "told"), [(float("nan"), "1 NaN and 0 infinite"), (float("-inf"), "0 NaN and 1 inf")]
)
def test_the_tensor_that_is_not_finite_is_named(value, told, tmp_path):
    key = "model.layers.1.mlp.down_proj.weight"

    def damage(tensors):
        tensors[key][3, 5] = value
        return tensors

    folder = variant(tiny("llama", tmp_path), tmp_path / "broken", damage)
    ended = micro.invoke("score", folder, *SCORE)
    assert ended.returncode != 0
    assert f"model.safetensors: {key} has {told}" in " ".join(ended.stderr.split())
    assert "download or save the model again" in " ".join(ended.stderr.split())


def test_an_overflow_of_finite_weights_is_told_as_one(tmp_path):
    """Embeddings near the end of float32: their squares, which the norm computes, are infinite."""
    folder = variant(tiny("gpt2", tmp_path), tmp_path / "large", lambda t: {k: v * 1e37 for k, v in t.items()})
    ended = micro.invoke("score", folder, *SCORE)
    assert ended.returncode != 0
    assert "are all finite, so its activations overflow in fp32" in " ".join(ended.stderr.split())


def test_an_adapter_that_is_not_finite_names_its_tensor(llama, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = lora_folder(llama, tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if "lora_B" in key)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MethodError, match=rf"1 NaN or infinite of .* numbers in {name}"):
        METHODS["saved"].load(load(resolve(str(llama)), precision="fp32"), folder)


def test_an_adapter_of_another_base_of_this_shape_is_told(llama, tmp_path):
    folder = lora_folder(llama, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    for name, told in (
        ("meta-llama/Llama-3.2-1B", True),
        (None, False),
        (str(llama), False),
        (f"unsloth/{llama.name}-bnb-4bit", False),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        assert bool([n for n in saved.notes(folder, str(llama)) if "as its base; here it is put on" in n]) == told
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "x/other"}))
    ended = micro.invoke("score", llama, *SCORE, "--adapter", folder)
    assert ended.returncode == 0
    assert f"its config names x/other as its base; here it is put on {llama}" in " ".join(ended.stderr.split())


def test_a_tokenizer_of_another_model_is_seen_in_what_is_predicted(tmp_path):
    """Every id is another token's: the trained base then predicts no better than its own average."""
    source = weights_folder(resolve("bundled/odyssey-3m"))
    folder = variant(source, tmp_path / "permuted")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((assets.model_files("odyssey-3m") / file).read_bytes())
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, special = content["model"]["vocab"], {token["content"] for token in content["added_tokens"]}
    words = [word for word in vocabulary if word not in special]
    ids = [vocabulary[word] for word in words]
    random.Random(0).shuffle(ids)
    vocabulary.update(zip(words, ids, strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    ended = micro.invoke("score", folder, *SCORE)
    assert ended.returncode == 0
    assert LOADED in " ".join(ended.stderr.split())
