"""Families whose layers the planner does not know are refused in a sentence, never by a traceback."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from peftodyssey.errors import ModelError
from peftodyssey.memory.layer_parts import layer_linears
from peftodyssey.models.local_model import read_config
from peftodyssey.models.shape_from_config import shape_from_config

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 64}
CONFIGS = {
    "mixtral": {**SMALL, **HEADS, "num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen3_moe": {
        **SMALL,
        **HEADS,
        "head_dim": 16,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 32,
    },
    "mamba": {**SMALL, "state_size": 8},
    "rwkv": {**SMALL, "attention_hidden_size": 64, "context_length": 64},
}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_layers_that_are_not_attention_and_one_feed_forward_are_named(family: str) -> None:
    with pytest.raises(ModelError, match=family):
        layer_linears(shape_from_config({"model_type": family, **CONFIGS[family]}), 0, 4, None)


def test_infinity_as_transformers_writes_it_is_a_number(tmp_path: Path) -> None:
    config = {
        "model_type": "mamba2",
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "rope": {"__float__": 1, "a": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(tmp_path)
    assert read["time_step_limit"] == [0.0, math.inf]
    assert read["rope"] == {"__float__": 1, "a": 2}
