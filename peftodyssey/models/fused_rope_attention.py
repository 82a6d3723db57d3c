"""The attention of Llama and its kin written for few passes over memory. `models.lean` takes it where it gives the
module's own numbers.

Queries and keys are rotated once each, where transformers writes five tensors for either, and stay as the projections
lay them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from peftodyssey.models import autograd_functions

ATTENTION_CLASSES = frozenset(
    ["LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention", "Olmo2Attention"]
)
INTERFACES = ("sdpa", "documents")  # of transformers' registry; eager attention is each module's own

Attention = Callable[..., tuple[Tensor, Tensor | None]]


def fused_forward(module: Any) -> Attention | None:
    """The lean forward of an attention module, None for one that is not known."""
    if type(module).__name__ not in ATTENTION_CLASSES or module.config._attn_implementation not in INTERFACES:
        return None
    norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
    window = (
        module.sliding_window if hasattr(module, "sliding_window") else getattr(module.config, "sliding_window", None)
    )

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
            own: tuple[Tensor, Tensor | None] = type(module).forward(
                module, hidden_states, position_embeddings, attention_mask, past_key_values, **more
            )
            return own
        by_head = (*hidden_states.shape[:-1], -1, module.head_dim)
        turned = [  # each product is gone before the next is made, which takes its place in memory
            autograd_functions.apply_rotary(
                _normed(project(hidden_states), norm, by_head), *position_embeddings
            ).transpose(1, 2)
            for project, norm in zip((module.q_proj, module.k_proj), norms, strict=True)
        ]
        value = module.v_proj(hidden_states).view(by_head).transpose(1, 2)
        out, weights = _interface(module)(
            module, *turned, value, attention_mask, dropout=0.0, scaling=module.scaling, sliding_window=window, **more
        )
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights

    return forward


def _interface(module: Any) -> Callable[..., tuple[Tensor, Tensor | None]]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    found: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    return found


def _normed(x: Tensor, norm: Any, by_head: tuple[int, ...]) -> Tensor:
    """By head, after a norm of each head's width, or of the whole width before it is parted."""
    if norm is None:
        return x.view(by_head)
    each_head = norm.weight.numel() == by_head[-1]
    return norm(x.view(by_head)) if each_head else norm(x).view(by_head)
