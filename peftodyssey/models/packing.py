"""Forward inputs for rows that hold several documents, without leaks between them. Called by `train` and `score`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Families whose masks transformers builds from restarting position ids (masking_utils, packed sequences).
_BY_POSITIONS = frozenset(
    ["llama", "gpt2", "gpt_neox", "olmo", "olmo2", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "phi", "phi3", "starcoder2", "stablelm"]
)


def packed_inputs(
    model: nn.Module, input_ids_bt: torch.Tensor, position_ids_bt: torch.Tensor, segments_bt: torch.Tensor
) -> dict[str, Any]:
    """Keyword arguments of a forward pass in which a token sees only earlier tokens of its own segment.

    `position_ids_bt` restart at 0 where a segment begins. Families that read segments off the positions get no mask,
    which is the fast path; others get a boolean (b, 1, t, t) mask, True where a token may look.
    """
    inputs = {"input_ids": input_ids_bt, "position_ids": position_ids_bt, "use_cache": False}
    config = model.config.get_text_config()
    if config.model_type in _BY_POSITIONS and _restarts_say_it_all(position_ids_bt, segments_bt):
        return inputs
    return {**inputs, "attention_mask": _mask(config, position_ids_bt, segments_bt, _float_type(model))}


def _restarts_say_it_all(position_ids_bt: torch.Tensor, segments_bt: torch.Tensor) -> bool:
    """Whether positions jump exactly where a new segment begins."""
    jumps = position_ids_bt.diff(dim=-1) != 1
    return bool(torch.equal(jumps, segments_bt.diff(dim=-1) != 0))


def _float_type(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)


def _mask(config: Any, position_ids_bt: torch.Tensor, segments_bt: torch.Tensor, dtype: torch.dtype) -> Any:
    """A (b, 1, t, t) mask, or one for each kind of layer where a family alternates kinds."""
    steps = torch.arange(segments_bt.shape[1], device=segments_bt.device)
    allowed_btt = (segments_bt[:, :, None] == segments_bt[:, None, :]) & (steps[:, None] >= steps[None, :])
    window = getattr(config, "sliding_window", None)
    near_btt = allowed_btt
    if window is not None:
        near_btt = allowed_btt & (position_ids_bt[:, :, None] - position_ids_bt[:, None, :] < window)
    kinds = {"full_attention": allowed_btt, "sliding_attention": near_btt}
    masks = {kind: _as_attention_takes_it(config, mask[:, None], dtype) for kind, mask in kinds.items()}
    if getattr(config, "layer_types", None):
        return masks
    return masks["sliding_attention"]


def _as_attention_takes_it(config: Any, allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Booleans for sdpa; for eager attention numbers to add, 0 where allowed."""
    if config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
