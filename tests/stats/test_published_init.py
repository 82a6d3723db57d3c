"""Published initialisations against numbers written out, SciPy's truncated normal, and transformers' own GPT-2."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from transformers import AutoConfig, AutoModelForCausalLM

from peftodyssey.errors import ModelError
from peftodyssey.measures.noise import published_init
from peftodyssey.measures.noise.perturbation import root_mean_squares, sigmas
from peftodyssey.models.shapes import named_configs
from peftodyssey.models.weight_matrices import weight_matrices


def on_meta(shape):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**named_configs()[shape]))
    return sigmas(model, weight_matrices(model), "published")


def test_the_truncation_is_that_of_scipy():
    assert pytest.approx(stats.truncnorm(-3, 3).std(), abs=1e-5) == published_init.STD_WITHIN_3


def test_olmo_1b_is_mitchell():
    """The last down_proj has 1/sqrt(2 x 8192 x 16) = 1/512 = .00195, a tenth of the configuration's .02."""
    sigma, cut = on_meta("olmo-1b"), published_init.STD_WITHIN_3
    assert sigma["model.layers.15.mlp.down_proj.weight"] == pytest.approx(cut / 512)
    assert sigma["model.layers.15.mlp.down_proj.weight"] == pytest.approx(0.00195, abs=5e-5)
    assert sigma["model.layers.0.self_attn.o_proj.weight"] == pytest.approx(cut / math.sqrt(2 * 2048))
    assert sigma["model.layers.7.mlp.up_proj.weight"] == pytest.approx(cut / math.sqrt(2048))


def test_pythia_410m_is_small_and_wang_init():
    """2 / (24 x sqrt(1024)) = .0026 for what writes to the residual stream, sqrt(2 / 5120) = .0198 else."""
    sigma = on_meta("pythia-410m")
    for name in ("attention.dense", "mlp.dense_4h_to_h"):
        assert sigma[f"gpt_neox.layers.3.{name}.weight"] == pytest.approx(2 / (24 * 32))
    assert sigma["gpt_neox.layers.3.mlp.dense_h_to_4h.weight"] == pytest.approx(0.0198, abs=5e-5)
    assert sigma["gpt_neox.layers.3.attention.query_key_value.weight"] == pytest.approx(math.sqrt(2 / 5120))


def test_gpt2_is_what_transformers_initialises():
    config = AutoConfig.for_model(**{**named_configs()["gpt2"], "num_hidden_layers": 3, "n_layer": 3})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    tensors = weight_matrices(model)
    sigma, measured = sigmas(model, tensors, "published"), root_mean_squares(tensors)
    assert len({round(value, 6) for value in sigma.values()}) == 2
    for name, value in sigma.items():
        assert value == pytest.approx(measured[name], rel=0.01), name


def test_a_family_without_one_is_an_error_that_says_what_to_set():
    with pytest.raises(ModelError, match="earliest_rung"):
        on_meta("tiny-llama")
