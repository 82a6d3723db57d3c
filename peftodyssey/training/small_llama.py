"""A Llama decoder in plain PyTorch for pretraining: no cache, no masks, one graph for `torch.compile`.

Its parameters have the names of transformers' LlamaForCausalLM, which loads its checkpoints and gives the same logits.
Shapes: b batch, t tokens, d hidden size, h heads, e head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


class Norm(nn.Module):
    """Root-mean-square norm with a gain, its statistics in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_btd: Tensor) -> Tensor:
        wide = x_btd.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + NORM_EPS)).to(x_btd.dtype)


class Attention(nn.Module):
    """Causal attention with rotary positions; several query heads may share one key-value head."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, width, bias=False)

    def forward(self, x_btd: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
        b, t, _ = x_btd.shape
        q_bhte, k_bhte, v_bhte = (
            projected.view(b, t, -1, self.head_dim).transpose(1, 2)
            for projected in (self.q_proj(x_btd), self.k_proj(x_btd), self.v_proj(x_btd))
        )
        q_bhte, k_bhte = apply_rotary(q_bhte, cos_te, sin_te), apply_rotary(k_bhte, cos_te, sin_te)
        if self.kv_heads < self.heads:
            k_bhte, v_bhte = (x.repeat_interleave(self.heads // self.kv_heads, 1) for x in (k_bhte, v_bhte))
        mixed_bhte = F.scaled_dot_product_attention(q_bhte, k_bhte, v_bhte, is_causal=True)
        return self.o_proj(mixed_bhte.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    """Gated feed-forward with SiLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_btd: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_btd)) * self.up_proj(x_btd))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, width: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, kv_heads)
        self.mlp = FeedForward(width, inner)
        self.input_layernorm, self.post_attention_layernorm = Norm(width), Norm(width)

    def forward(self, x_btd: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
        x_btd = x_btd + self.self_attn(self.input_layernorm(x_btd), cos_te, sin_te)
        return x_btd + self.mlp(self.post_attention_layernorm(x_btd))


class Decoder(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        sizes = (width, config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"])
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(width)
        self.head_dim, self.theta = width // sizes[1], config["rope_parameters"]["rope_theta"]

    def forward(self, tokens_bt: Tensor) -> Tensor:
        x_btd = self.embed_tokens(tokens_bt)
        cos_te, sin_te = rotary_cos_sin(tokens_bt.shape[1], self.head_dim, self.theta, x_btd)
        for layer in self.layers:
            x_btd = layer(x_btd, cos_te, sin_te)
        return self.norm(x_btd)


class SmallLlama(nn.Module):
    """The decoder with its head; `forward` gives logits."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens_bt: Tensor) -> Tensor:
        return self.lm_head(self.model(tokens_bt))


def rotary_cos_sin(length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head_dim] of the rotary positions 0..length-1, of the type of `like`."""
    halves = torch.arange(0, head_dim, 2, dtype=torch.float32, device=like.device) / head_dim
    angles = torch.arange(length, dtype=torch.float32, device=like.device)[:, None] * (1.0 / theta**halves)[None]
    both = torch.cat([angles, angles], dim=-1)
    return both.cos().to(like.dtype), both.sin().to(like.dtype)


def apply_rotary(x_bhte: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
    """Rotary position embedding of the halves of each head, in the type of `x_bhte`."""
    first, second = x_bhte.chunk(2, dim=-1)
    rotated_half = torch.cat([-second, first], dim=-1)
    return (x_bhte * cos_te + rotated_half * sin_te).to(x_bhte.dtype)


def init_model(config: Mapping[str, Any], seed: int) -> SmallLlama:
    """A new model: matrices from N(0, initializer_range), gains 1; the same numbers on every device."""
    with torch.device("meta"):
        model = SmallLlama(config)
    model.to_empty(device="cpu")
    if config["tie_word_embeddings"]:
        model.lm_head.weight = model.model.embed_tokens.weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, config["initializer_range"], generator=generator)
    return model
