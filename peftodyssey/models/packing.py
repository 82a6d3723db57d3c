"""Forward inputs for rows that hold several documents, without leaks between them. Called by `train` and `score`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.models import varlen_attention


def packed_inputs(
    model: nn.Module,
    input_ids_bt: np.ndarray | Tensor,
    position_ids_bt: np.ndarray | Tensor,
    segments_bt: np.ndarray | Tensor,
    device: torch.device | None = None,
    *,
    allow_varlen: bool = True,
) -> dict[str, Any]:
    """Keyword arguments of a forward pass on `device` (None: the CPU) in which a token sees only earlier tokens of its
    own segment.

    The arrays lie on the host; `position_ids_bt` restart at 0 where a segment begins. A model that takes them is given
    the ends of the documents as its mask (`models.documents`); families that read segments off the positions get no
    mask; others get a boolean (b, 1, t, t) mask, True where a token may look.
    """
    device = device or torch.device("cpu")
    inputs = {
        "input_ids": to_device(input_ids_bt, device),
        "position_ids": to_device(position_ids_bt, device),
        "use_cache": False,
    }
    config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]
    segments = np.asarray(segments_bt)
    if allow_varlen and varlen_attention.supports_varlen(model, device, segments.shape[1]):
        return {
            **inputs,
            "attention_mask": torch.from_numpy(varlen_attention.cu_seqlens(segments)).to(device, non_blocking=True),
        }
    if config.model_type in varlen_attention.FAMILIES and _positions_encode_segments(
        np.asarray(position_ids_bt), segments
    ):
        return inputs
    dtype = next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return {**inputs, "attention_mask": _mask(config, inputs["position_ids"], to_device(segments, device), dtype)}


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The numbers as int64 on `device`; the host does not wait for the copy."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)


def _positions_encode_segments(position_ids_bt: np.ndarray, segments_bt: np.ndarray) -> bool:
    """Whether positions jump exactly where a new segment begins."""
    return np.array_equal(np.diff(position_ids_bt) != 1, np.diff(segments_bt) != 0)


def _mask(config: Any, position_ids_bt: Tensor, segments_bt: Tensor, dtype: torch.dtype) -> Any:
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


def _as_attention_takes_it(config: Any, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans for sdpa; for eager attention numbers to add, 0 where allowed."""
    if config._attn_implementation in ("sdpa", varlen_attention.NAME):
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
