"""A forward of the attention of Llama and similar families in which rotary embeddings take one pass over memory.

transformers writes five tensors each for queries and keys; here each is rotated once, in the layout of its projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from peftodyssey.models import varlen_attention
from peftodyssey.models.autograd_functions import apply_rotary

ATTENTION_CLASSES = frozenset(
    ["LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention", "Olmo2Attention"]
)
INTERFACES = (
    "sdpa",
    varlen_attention.NAME,
)  # of transformers' attention registry; eager attention is each module's own

Attention = Callable[..., tuple[Tensor, Tensor | None]]


def fused_forward(module: Any) -> Attention | None:
    """A forward for an attention module; None where its class or its attention implementation is not supported."""
    if type(module).__name__ not in ATTENTION_CLASSES or module.config._attn_implementation not in INTERFACES:
        return None
    norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
    holder = module if hasattr(module, "sliding_window") else module.config
    window = getattr(holder, "sliding_window", None)

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if (
            past_key_values is not None
            or position_embeddings is None
            or position_embeddings[0].shape[-1] != module.head_dim
        ):
            original: tuple[Tensor, Tensor | None] = type(module).forward(
                module, hidden_states, position_embeddings, attention_mask, past_key_values, **more
            )
            return original
        by_head = (*hidden_states.shape[:-1], -1, module.head_dim)
        query, key = (  # each projection is freed before the next is computed, which reuses its memory
            apply_rotary(_normed(project(hidden_states), norm, by_head), *position_embeddings).transpose(1, 2)
            for project, norm in zip((module.q_proj, module.k_proj), norms, strict=True)
        )
        value = module.v_proj(hidden_states).view(by_head).transpose(1, 2)
        options = {"dropout": 0.0, "scaling": module.scaling, "sliding_window": window}
        out, weights = _attention_function(module)(module, query, key, value, attention_mask, **options, **more)
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights

    return forward


def _attention_function(module: Any) -> Attention:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    function: Attention = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    return function


def _normed(x: Tensor, norm: Any, by_head: tuple[int, ...]) -> Tensor:
    """(b, t, h, d) after the norm, which is over each head's width, or over all heads."""
    if norm is None:
        return x.view(by_head)
    is_per_head = norm.weight.numel() == by_head[-1]
    return norm(x.view(by_head)) if is_per_head else norm(x).view(by_head)
