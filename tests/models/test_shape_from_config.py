"""Sizes from config.json equal those of the real module tree, for every named shape."""

from __future__ import annotations

import subprocess
import sys

import pytest

from peftodyssey.errors import ModelError
from peftodyssey.models.shape_from_config import FAMILIES, shape_from_config
from peftodyssey.models.shape_from_meta_model import meta_model, shape_from_meta_model
from peftodyssey.models.shapes import named_configs

# Parameters as published with the models.
PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "olmo-1b": 1_176_764_416,
    "olmo-2-1b": 1_484_916_736,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "pythia-70m": 70_426_624,
    "pythia-1b": 1_011_781_632,
    "smollm2-135m": 134_515_008,
    "llama-124m": 123_587_328,
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "odyssey-3m": 3_443_136,
}


@pytest.mark.parametrize("shape", sorted(name for name in named_configs() if name.startswith("tiny-")))
def test_counts_equal_the_module_tree(shape):
    config = named_configs()[shape]
    assert config["model_type"] in FAMILIES
    assert shape_from_config(config) == shape_from_meta_model(config)
    assert shape_from_config(config).parameters == sum(p.numel() for p in meta_model(config).parameters())


@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(named_configs()))
def test_counts_equal_the_module_tree_at_full_size(shape):
    assert shape_from_config(named_configs()[shape]) == shape_from_meta_model(named_configs()[shape])


@pytest.mark.parametrize("shape", sorted(PUBLISHED))
def test_counts_equal_published_ones(shape):
    assert shape_from_config(named_configs()[shape]).parameters == PUBLISHED[shape]


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("tiny-llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("tiny-gpt2", {"n_inner": 96, "tie_word_embeddings": False}),
        ("tiny-gpt_neox", {"attention_bias": False, "use_parallel_residual": False}),
        ("tiny-starcoder2", {"use_bias": False}),
        ("tiny-stablelm", {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True}),
        ("tiny-phi", {"qk_layernorm": True}),
        ("tiny-qwen3", {"attention_bias": True}),
    ],
)
def test_options_of_a_family_are_counted(shape, changes):
    config = {**named_configs()[shape], **changes}
    changed = shape_from_config(config)
    assert changed == shape_from_meta_model(config)
    assert changed.parameters != shape_from_config(named_configs()[shape]).parameters


@pytest.mark.parametrize("key", ["head_dim", "tie_word_embeddings", "num_key_value_heads", "intermediate_size"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_that_a_config_leaves_out_take_the_familys_default(family, key):
    config = named_configs()[f"tiny-{family}"]
    config.pop(key, None)
    assert shape_from_config(config) == shape_from_meta_model(config)


def test_an_unlisted_family_is_counted_on_the_meta_device():
    config = {"model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 64, "num_hidden_layers": 2, "ffn_dim": 128}
    shape = shape_from_config({**config, "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 64})
    assert shape.layers == 2
    assert {m.leaf for m in shape.linears} == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    assert shape.parameters == sum(
        p.numel()
        for p in meta_model(
            {**config, "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 64}
        ).parameters()
    )


def test_an_unknown_family_is_an_error():
    with pytest.raises(ModelError, match="nosuch"):
        shape_from_config({"model_type": "nosuch"})


def test_known_families_are_counted_without_torch():
    code = (
        "import sys\n"
        "from peftodyssey.models.shape_from_config import shape_from_config\n"
        "from peftodyssey.models.shapes import named_configs\n"
        "[shape_from_config(c) for c in named_configs().values()]\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
