"""Forward inputs of packed rows, which hold several documents that do not attend to each other."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.models import varlen_attention
from peftodyssey.models.separate_documents import takes_separate_documents


def packed_inputs(
    model: nn.Module,
    input_ids_bt: np.ndarray | Tensor,
    position_ids_bt: np.ndarray | Tensor,
    segments_bt: np.ndarray | Tensor,
    device: torch.device | None = None,
    *,
    allow_varlen: bool = True,
) -> dict[str, Any]:
    """Keyword arguments of a forward pass on `device` (None: the CPU) in which tokens attend within their segment only.

    The arrays are on the host; `position_ids_bt` restart at 0 in each segment. A model with `varlen_attention` gets
    cu_seqlens as its attention mask; families for which transformers derives segments from the positions get no mask;
    others get a boolean (b, 1, t, t) mask, True where a token may attend; and where that does not keep documents apart,
    cu_seqlens by which `separate_documents` gives each a row of its own.
    """
    device = device or torch.device("cpu")
    position_ids = to_device(position_ids_bt, device)
    inputs = {"input_ids": to_device(input_ids_bt, device), "position_ids": position_ids, "use_cache": False}
    config = varlen_attention.text_config(model)
    segments = np.asarray(segments_bt)
    if allow_varlen and varlen_attention.supports_varlen(model, device, segments.shape[1]):
        cu_seqlens = torch.from_numpy(varlen_attention.cu_seqlens(segments))
        return {**inputs, "attention_mask": cu_seqlens.to(device, non_blocking=True)}
    if takes_separate_documents(model, functools.partial(masked_inputs, model, device=device)):
        cu_seqlens = torch.from_numpy(varlen_attention.cu_seqlens(segments))
        return {"input_ids": inputs["input_ids"], "use_cache": False, "attention_mask": cu_seqlens.to(device)}
    derives_segments = config.model_type in varlen_attention.FAMILIES
    if derives_segments and _positions_encode_segments(np.asarray(position_ids_bt), segments):
        return inputs
    return masked_inputs(model, input_ids_bt, position_ids_bt, segments, device)


def masked_inputs(
    model: nn.Module,
    input_ids_bt: np.ndarray | Tensor,
    position_ids_bt: np.ndarray | Tensor,
    segments_bt: np.ndarray | Tensor,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """The inputs with a boolean mask of documents, as families take it that know no other way."""
    config, device = varlen_attention.text_config(model), device or torch.device("cpu")
    ids, positions, segments = (to_device(array, device) for array in (input_ids_bt, position_ids_bt, segments_bt))
    dtype = next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    mask = _mask(config, positions, segments, dtype)
    return {"input_ids": ids, "position_ids": positions, "use_cache": False, "attention_mask": mask}


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The array as int64 on `device`, copied asynchronously."""
    if isinstance(array, Tensor):
        return array.to(device, torch.int64, non_blocking=True)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)


def _positions_encode_segments(position_ids_bt: np.ndarray, segments_bt: np.ndarray) -> bool:
    """Whether positions restart exactly where a new segment begins."""
    return np.array_equal(np.diff(position_ids_bt) != 1, np.diff(segments_bt) != 0)


def _mask(config: Any, position_ids_bt: Tensor, segments_bt: Tensor, dtype: torch.dtype) -> Any:
    """A (b, 1, t, t) mask, or {kind of layer: mask} for families that alternate full and sliding attention."""
    steps = torch.arange(segments_bt.shape[1], device=segments_bt.device)
    allowed_btt = (segments_bt[:, :, None] == segments_bt[:, None, :]) & (steps[:, None] >= steps[None, :])
    window = getattr(config, "sliding_window", None)
    near_btt = allowed_btt
    if window is not None:
        near_btt = allowed_btt & (position_ids_bt[:, :, None] - position_ids_bt[:, None, :] < window)
    kinds = {"full_attention": allowed_btt, "sliding_attention": near_btt}
    masks = {kind: _to_mask_dtype(config, mask[:, None], dtype) for kind, mask in kinds.items()}
    return masks if getattr(config, "layer_types", None) else masks["sliding_attention"]


def _to_mask_dtype(config: Any, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans for sdpa; an additive mask for eager attention, 0 where allowed."""
    if config._attn_implementation in ("sdpa", varlen_attention.NAME):
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
