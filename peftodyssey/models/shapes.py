"""config.json of known models for `random/<shape>`: their memory and speed can be tried without a download.

The numbers are those of the published config files. The `tiny-<family>` shapes are for tests: two layers of width 64.
"""

from __future__ import annotations

import copy
from typing import Any

Config = dict[str, Any]


def named_configs() -> dict[str, Config]:
    """{shape: a new copy of its config}, with the keys of a Hub repository's config.json."""
    return copy.deepcopy(
        {**_llama(), **_mistral(), **_qwen(), **_olmo(), **_gpt2(), **_pythia(), **_gemma(), **_tiny()}
    )


def _llama_shape(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int, positions: int, **more: Any
) -> Config:
    theta = more.pop("theta", 10000.0)
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        **more,
    }


def _llama() -> dict[str, Config]:
    rope_3 = {
        "rope_theta": 500000.0,
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {
        "llama-7b": _llama_shape(4096, 32, 32, 32, 11008, 32000, 2048, rms_norm_eps=1e-6),
        "llama-13b": _llama_shape(5120, 40, 40, 40, 13824, 32000, 2048, rms_norm_eps=1e-6),
        "llama-30b": _llama_shape(6656, 60, 52, 52, 17920, 32000, 2048, rms_norm_eps=1e-6),
        "llama-65b": _llama_shape(8192, 80, 64, 64, 22016, 32000, 2048),
        "llama-2-7b": _llama_shape(4096, 32, 32, 32, 11008, 32000, 4096),
        "llama-2-13b": _llama_shape(5120, 40, 40, 40, 13824, 32000, 4096),
        "llama-3-8b": _llama_shape(4096, 32, 32, 8, 14336, 128256, 8192, theta=500000.0),
        "llama-3.2-1b": _llama_shape(
            2048, 16, 32, 8, 8192, 128256, 131072, head_dim=64, tie_word_embeddings=True, rope_parameters=rope_3
        ),
        "llama-3.2-3b": _llama_shape(
            3072, 28, 24, 8, 8192, 128256, 131072, head_dim=128, tie_word_embeddings=True, rope_parameters=rope_3
        ),
        "llama-124m": _llama_shape(768, 12, 12, 12, 2048, 50304, 1024, tie_word_embeddings=True),  # GPT-2's size
        "smollm2-135m": _llama_shape(576, 30, 9, 3, 1536, 49152, 8192, theta=100000.0, tie_word_embeddings=True),
        "smollm2-360m": _llama_shape(960, 32, 15, 5, 2560, 49152, 8192, theta=100000.0, tie_word_embeddings=True),
        "smollm2-1.7b": _llama_shape(2048, 24, 32, 32, 8192, 49152, 8192, theta=130000.0, tie_word_embeddings=True),
        "odyssey-3m": _llama_shape(
            192, 6, 3, 3, 512, 4096, 1024, head_dim=64, rms_norm_eps=1e-6, tie_word_embeddings=True
        ),
    }


def _mistral() -> dict[str, Config]:
    shape = _llama_shape(4096, 32, 32, 8, 14336, 32000, 32768, model_type="mistral", sliding_window=4096)
    return {"mistral-7b": shape}


def _qwen() -> dict[str, Config]:
    qwen2: Config = {"model_type": "qwen2", "theta": 1000000.0, "rms_norm_eps": 1e-6}
    qwen3: Config = {
        "model_type": "qwen3",
        "theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "head_dim": 128,
        "attention_bias": False,
    }
    return {
        "qwen2.5-0.5b": _llama_shape(896, 24, 14, 2, 4864, 151936, 32768, tie_word_embeddings=True, **qwen2),
        "qwen2.5-1.5b": _llama_shape(1536, 28, 12, 2, 8960, 151936, 131072, tie_word_embeddings=True, **qwen2),
        "qwen2.5-3b": _llama_shape(2048, 36, 16, 2, 11008, 151936, 32768, tie_word_embeddings=True, **qwen2),
        "qwen2.5-7b": _llama_shape(3584, 28, 28, 4, 18944, 152064, 131072, **qwen2),
        "qwen3-0.6b": _llama_shape(1024, 28, 16, 8, 3072, 151936, 40960, tie_word_embeddings=True, **qwen3),
        "qwen3-1.7b": _llama_shape(2048, 28, 16, 8, 6144, 151936, 40960, tie_word_embeddings=True, **qwen3),
        "qwen3-4b": _llama_shape(2560, 36, 32, 8, 9728, 151936, 40960, tie_word_embeddings=True, **qwen3),
        "qwen3-8b": _llama_shape(4096, 36, 32, 8, 12288, 151936, 40960, **qwen3),
    }


def _olmo() -> dict[str, Config]:
    olmo: Config = {"model_type": "olmo", "pad_token_id": 1, "eos_token_id": 50279, "clip_qkv": None}
    olmo2: Config = {
        "model_type": "olmo2",
        "pad_token_id": 100277,
        "eos_token_id": 100257,
        "rms_norm_eps": 1e-6,
        "theta": 500000.0,
    }
    return {
        "olmo-1b": _llama_shape(2048, 16, 16, 16, 8192, 50304, 2048, tie_word_embeddings=True, **olmo),
        "olmo-7b": _llama_shape(4096, 32, 32, 32, 11008, 50304, 2048, **olmo),
        "olmo-2-1b": _llama_shape(2048, 16, 16, 16, 8192, 100352, 4096, **olmo2),
        "olmo-2-7b": _llama_shape(4096, 32, 32, 32, 11008, 100352, 4096, **olmo2),
    }


def _gpt2_shape(hidden: int, layers: int, heads: int, vocabulary: int = 50257, positions: int = 1024) -> Config:
    return {
        "model_type": "gpt2",
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": positions,
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 1,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
    }


def _gpt2() -> dict[str, Config]:
    return {
        "gpt2": _gpt2_shape(768, 12, 12),
        "gpt2-medium": _gpt2_shape(1024, 24, 16),
        "gpt2-large": _gpt2_shape(1280, 36, 20),
        "gpt2-xl": _gpt2_shape(1600, 48, 25),
    }


def _neox_shape(hidden: int, layers: int, heads: int, vocabulary: int = 50304, positions: int = 2048) -> Config:
    return {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25},
    }


def _pythia() -> dict[str, Config]:
    return {
        "pythia-70m": _neox_shape(512, 6, 8),
        "pythia-160m": _neox_shape(768, 12, 12),
        "pythia-410m": _neox_shape(1024, 24, 16),
        "pythia-1b": _neox_shape(2048, 16, 8),
        "pythia-1.4b": _neox_shape(2048, 24, 16),
        "pythia-2.8b": _neox_shape(2560, 32, 32),
        "pythia-6.9b": _neox_shape(4096, 32, 32, vocabulary=50432),
        "pythia-12b": _neox_shape(5120, 36, 40, vocabulary=50688),
    }


def _gemma_shape(family: str, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, **more: Any) -> Config:
    positions = more.pop("positions", 8192)
    shape = _llama_shape(hidden, layers, heads, kv_heads, inner, more.pop("vocabulary", 256000), positions)
    shape |= {"model_type": family, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6}
    return shape | {"tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1} | more


def _gemma() -> dict[str, Config]:
    gemma2: Config = {"sliding_window": 4096, "query_pre_attn_scalar": 256, "hidden_activation": "gelu_pytorch_tanh"}
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    gemma3: Config = {
        **gemma2,
        "sliding_window": 512,
        "vocabulary": 262144,
        "positions": 32768,
        "rope_parameters": rope,
    }
    return {
        "gemma-2b": _gemma_shape("gemma", 2048, 18, 8, 1, 16384),
        "gemma-7b": _gemma_shape("gemma", 3072, 28, 16, 16, 24576),
        "gemma-2-2b": _gemma_shape("gemma2", 2304, 26, 8, 4, 9216, **gemma2),
        "gemma-2-9b": _gemma_shape("gemma2", 3584, 42, 16, 8, 14336, **gemma2),
        "gemma-3-270m": _gemma_shape("gemma3_text", 640, 18, 4, 1, 2048, **gemma3),
        "gemma-3-1b": _gemma_shape("gemma3_text", 1152, 26, 4, 1, 6912, **gemma3),
    }


def _tiny() -> dict[str, Config]:
    """Two layers of width 64 for the bundled tokenizer's 4096 ids; windows are shorter than test sequences."""
    wide: Config = {"initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size: tuple[int, ...] = (64, 2, 4, 4, 128, 4096, 512)
    grouped: tuple[int, ...] = (64, 2, 4, 2, 128, 4096, 512)
    gemma: Config = {**wide, "vocabulary": 4096, "positions": 512, "head_dim": 32}
    window: Config = {"sliding_window": 32, "query_pre_attn_scalar": 32, "hidden_activation": "gelu_pytorch_tanh"}
    layers: Config = {"layer_types": ["sliding_attention", "full_attention"]}
    rope = _gemma()["gemma-3-1b"]["rope_parameters"]
    return {
        "tiny-llama": _llama_shape(*grouped, **wide),
        "tiny-gpt2": _gpt2_shape(64, 2, 4, 4096, 512) | wide,
        "tiny-gpt_neox": _neox_shape(64, 2, 4, 4096, 512) | wide,
        "tiny-olmo": _llama_shape(*size, model_type="olmo", tie_word_embeddings=True, **wide),
        "tiny-olmo2": _llama_shape(*size, model_type="olmo2", **wide),
        "tiny-qwen2": _llama_shape(*grouped, model_type="qwen2", tie_word_embeddings=True, **wide),
        "tiny-qwen3": _llama_shape(*grouped, model_type="qwen3", head_dim=32, tie_word_embeddings=True, **wide),
        "tiny-gemma": _gemma_shape("gemma", 64, 2, 4, 1, 128, **gemma),
        "tiny-gemma2": _gemma_shape("gemma2", 64, 2, 4, 2, 128, **gemma, **window, **layers),
        "tiny-gemma3_text": _gemma_shape(
            "gemma3_text", 64, 2, 4, 1, 128, **gemma, **window, **layers, rope_parameters=rope
        ),
        "tiny-mistral": _llama_shape(*grouped, model_type="mistral", sliding_window=32, **wide),
        "tiny-phi": _llama_shape(*size, model_type="phi", **wide) | {"hidden_act": "gelu_new"},
        "tiny-phi3": _llama_shape(*grouped, model_type="phi3", **wide),
        "tiny-starcoder2": _llama_shape(*grouped, model_type="starcoder2", use_bias=True, **wide)
        | {"hidden_act": "gelu_pytorch_tanh"},
        "tiny-stablelm": _llama_shape(*size, model_type="stablelm", **wide),
    }
