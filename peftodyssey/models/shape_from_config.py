"""The shape of a causal language model from its config.json.

Known families need no torch; others are built on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from peftodyssey.errors import ModelError
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.untrusted import limits

# One decoder layer: (name inside the layer, out_features, in_features, bias), in module order.
Linears = list[tuple[str, int, int, bool]]


@dataclass(frozen=True)
class _Sizes:
    """The sizes in a config, under the same names for all families."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    config: Mapping[str, Any]

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.config.get(key, default))


@dataclass(frozen=True)
class _Family:
    """The layers of a family."""

    linears: Callable[[_Sizes], Linears]
    norms: Callable[[_Sizes], tuple[int, int]]  # parameters of the norms in one layer, and outside the layers
    layers: str = "model.layers"
    gated: bool = True
    tied: bool = False  # where config.json does not say
    head_dim: int | None = None  # where config.json does not say; None: hidden / heads
    head_bias: bool = False


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the `AutoModelForCausalLM` that `config` (a config.json) describes.

    Raises ModelError for a family that transformers does not know.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is not None and (sizes := _sizes(config, family)) is not None:
        return _shape(config, family, sizes)
    from peftodyssey.models.shape_from_meta_model import shape_from_meta_model

    return shape_from_meta_model(config, traced=family is None)


def _sizes(config: Mapping[str, Any], family: _Family) -> _Sizes | None:
    """None where config.json leaves a size to transformers' default."""
    hidden, heads = _first(config, "hidden_size", "n_embd"), _first(config, "num_attention_heads", "n_head")
    _check_sizes(config)
    if None in (hidden, heads, _num_layers(config), _positions(config), config.get("vocab_size")):
        return None
    if config.get("num_key_value_heads") is None and config["model_type"] not in _UNGROUPED:
        return None
    gpt2 = config["model_type"] == "gpt2"
    intermediate = (config.get("n_inner") or 4 * hidden) if gpt2 else config.get("intermediate_size")
    if intermediate is None:
        return None
    return _Sizes(
        hidden=hidden,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or family.head_dim or hidden // heads,
        intermediate=intermediate,
        config=config,
    )


def _check_sizes(config: Mapping[str, Any]) -> None:
    """Raises ModelError for a size that is stated and is not a whole number above 0."""
    for key in SIZE_KEYS:
        value = config.get(key)
        if value is None:
            continue
        largest = LARGEST.get(key, limits.WIDTH)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            got = f"{value!r:.40}"
            raise ModelError(
                f"config.json has {key}: {got}, which must be a whole number from 1 to {largest:,}",
                f"correct {key} in config.json, or download it again",
            )


def _first(config: Mapping[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _num_layers(config: Mapping[str, Any]) -> Any:
    return _first(config, "num_hidden_layers", "n_layer")


def _positions(config: Mapping[str, Any]) -> Any:
    return _first(config, "max_position_embeddings", "n_positions")


def _shape(config: Mapping[str, Any], family: _Family, sizes: _Sizes) -> ModelShape:
    layers = _num_layers(config)
    vocabulary, learned = config["vocab_size"], config["model_type"] == "gpt2"
    tied = bool(config.get("tie_word_embeddings", family.tied))
    one_layer = family.linears(sizes)
    inside, outside = family.norms(sizes)
    return ModelShape(
        family=config["model_type"],
        vocabulary=vocabulary,
        hidden=sizes.hidden,
        layers=layers,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        intermediate=sizes.intermediate,
        positions=_positions(config),
        tied=tied,
        gated=family.gated,
        linears=tuple(
            LinearShape(f"{family.layers}.{layer}.{name}", rows, columns, bias, layer)
            for layer in range(layers)
            for name, rows, columns, bias in one_layer
        ),
        embedding_parameters=(vocabulary + learned * _positions(config)) * sizes.hidden,
        head_parameters=(0 if tied else vocabulary * sizes.hidden) + vocabulary * family.head_bias,
        norm_parameters=layers * inside + outside,
        norm_parameters_by_layer=inside,
        hidden_dropout=any(_share(config, key) for key in HIDDEN_DROPOUT_KEYS),
        attention_dropout=any(_share(config, key) for key in ("attn_pdrop", "attention_dropout")),
    )


def _share(config: Mapping[str, Any], key: str) -> Any:
    """The dropout that a config states by `key`, where it leaves it out transformers' default."""
    return config.get(key, GPT2_DROPOUT if config["model_type"] == "gpt2" and key.endswith("pdrop") else 0.0)


def _attention(s: _Sizes, qkv: bool, out: bool, last: str = "o_proj") -> Linears:
    return [
        ("self_attn.q_proj", s.query, s.hidden, qkv),
        ("self_attn.k_proj", s.key, s.hidden, qkv),
        ("self_attn.v_proj", s.key, s.hidden, qkv),
        (f"self_attn.{last}", s.hidden, s.query, out),
    ]


def _gated(s: _Sizes, bias: bool = False) -> Linears:
    return [
        ("mlp.gate_proj", s.intermediate, s.hidden, bias),
        ("mlp.up_proj", s.intermediate, s.hidden, bias),
        ("mlp.down_proj", s.hidden, s.intermediate, bias),
    ]


def _plain(s: _Sizes, up: str, down: str, bias: bool) -> Linears:
    return [(f"mlp.{up}", s.intermediate, s.hidden, bias), (f"mlp.{down}", s.hidden, s.intermediate, bias)]


def _llama(s: _Sizes) -> Linears:
    bias = s.flag("attention_bias")
    return _attention(s, bias, bias) + _gated(s, s.flag("mlp_bias"))


def _unbiased_mlp(s: _Sizes) -> Linears:
    bias = s.flag("attention_bias")
    return _attention(s, bias, bias) + _gated(s)


def _gpt2(s: _Sizes) -> Linears:
    attention: Linears = [("attn.c_attn", 3 * s.hidden, s.hidden, True), ("attn.c_proj", s.hidden, s.hidden, True)]
    return attention + _plain(s, "c_fc", "c_proj", True)


def _neox(s: _Sizes) -> Linears:
    bias = s.flag("attention_bias", True)
    attention: Linears = [
        ("attention.query_key_value", 3 * s.hidden, s.hidden, bias),
        ("attention.dense", s.hidden, s.hidden, bias),
    ]
    return attention + _plain(s, "dense_h_to_4h", "dense_4h_to_h", True)


def _phi3(s: _Sizes) -> Linears:
    return [
        ("self_attn.o_proj", s.hidden, s.query, False),
        ("self_attn.qkv_proj", s.query + 2 * s.key, s.hidden, False),
        ("mlp.gate_up_proj", 2 * s.intermediate, s.hidden, False),
        ("mlp.down_proj", s.hidden, s.intermediate, False),
    ]


def _starcoder2(s: _Sizes) -> Linears:
    bias = s.flag("use_bias", True)
    return _attention(s, bias, bias) + _plain(s, "c_fc", "c_proj", bias)


def _norms(per_layer: int, final: int) -> Callable[[_Sizes], tuple[int, int]]:
    """Norms of `per_layer` vectors of the hidden width in each layer, and `final` after the layers."""
    return lambda s: (per_layer * s.hidden, final * s.hidden)


def _phi_norms(s: _Sizes) -> tuple[int, int]:
    per_head = 4 * s.head_dim if s.flag("qk_layernorm") else 0
    return 2 * s.hidden + per_head, 2 * s.hidden


def _stablelm_norms(s: _Sizes) -> tuple[int, int]:
    per_head = (s.heads + s.kv_heads) * s.head_dim if s.flag("qk_layernorm") else 0
    blocks = 2 if s.flag("use_parallel_residual") else 4
    return blocks * s.hidden + per_head, 2 * s.hidden


HIDDEN_DROPOUT_KEYS = ("resid_pdrop", "embd_pdrop", "hidden_dropout")
GPT2_DROPOUT = 0.1
SIZE_KEYS = (
    *("hidden_size", "n_embd", "num_attention_heads", "n_head", "num_hidden_layers", "n_layer", "vocab_size"),
    *("max_position_embeddings", "n_positions", "num_key_value_heads", "head_dim", "intermediate_size", "n_inner"),
)
LARGEST = {
    "num_hidden_layers": limits.LAYERS,
    "n_layer": limits.LAYERS,
    "vocab_size": limits.VOCABULARY,
    "max_position_embeddings": limits.POSITIONS,
    "n_positions": limits.POSITIONS,
}  # of the other sizes limits.WIDTH
_UNGROUPED = ("llama", "olmo", "olmo2", "phi", "phi3", "gpt2", "gpt_neox")  # num_key_value_heads is optional: all heads

FAMILIES: dict[str, _Family] = {
    "llama": _Family(_llama, _norms(2, 1)),
    "mistral": _Family(lambda s: _attention(s, False, False) + _gated(s), _norms(2, 1)),
    "qwen2": _Family(lambda s: _attention(s, True, False) + _gated(s), _norms(2, 1)),
    "qwen3": _Family(_unbiased_mlp, lambda s: (2 * s.hidden + 2 * s.head_dim, s.hidden), head_dim=128),
    "gemma": _Family(_unbiased_mlp, _norms(2, 1), tied=True, head_dim=256),
    "gemma2": _Family(_unbiased_mlp, _norms(4, 1), tied=True, head_dim=256),
    "gemma3_text": _Family(_unbiased_mlp, lambda s: (4 * s.hidden + 2 * s.head_dim, s.hidden), tied=True, head_dim=256),
    "olmo": _Family(_unbiased_mlp, _norms(0, 0)),
    "olmo2": _Family(_unbiased_mlp, lambda s: (2 * s.hidden + s.query + s.key, s.hidden)),
    "gpt2": _Family(_gpt2, _norms(4, 2), layers="transformer.h", gated=False, tied=True),
    "gpt_neox": _Family(_neox, _norms(4, 2), layers="gpt_neox.layers", gated=False),
    "phi": _Family(
        lambda s: _attention(s, True, True, "dense") + _plain(s, "fc1", "fc2", True),
        _phi_norms,
        gated=False,
        head_bias=True,
    ),
    "phi3": _Family(_phi3, _norms(2, 1)),
    "starcoder2": _Family(_starcoder2, _norms(4, 2), gated=False, tied=True),
    "stablelm": _Family(lambda s: _attention(s, s.flag("use_qkv_bias"), False) + _gated(s), _stablelm_norms),
}
