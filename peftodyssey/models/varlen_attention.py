"""Attention inside the documents of packed rows, told where each ends instead of by a mask. `models.load` puts it on a
model.

A mask has a place for every pair of tokens of a row and makes kernels slow; ends are one number a document, and nothing
between two documents is computed. On a card, in bf16, they go to FlashAttention's kernel for sequences of unequal
length (Dao, arXiv 2307.08691) by `torch.nn.attention.varlen`; on a CPU, where rows are long, documents of like length
go side by side through torch's own. Elsewhere, and where no ends are given, it is transformers' sdpa with its masks.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftodyssey.constants import MIN_VARLEN_TOKENS_CPU
from peftodyssey.models.shape_from_config import FAMILIES

NAME = "documents"  # of this attention in transformers' registry
WIDEST_HEAD = 256  # of FlashAttention 2
LENGTH_BUCKET = 64  # tokens: documents whose lengths round up to the same multiple are alike
CLOSE = 0.05  # of the trial: a few roundings in bf16


def install(model: Any) -> None:
    """Has a model of a known family that attends by sdpa attend by `attend`; others stay as they are.

    Attention modules of these families hand a mask on as it is, and their window with it.
    """
    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa" and config.model_type in FAMILIES:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        AttentionInterface.register(NAME, varlen_attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME


def supports_varlen(model: Any, device: torch.device, row_tokens: int) -> bool:
    """Whether a pass of such rows on `device`, under the autocast of now, may be given `ends` as its mask."""
    config = model.config.get_text_config()
    if config._attn_implementation != NAME or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cpu":
        return row_tokens >= MIN_VARLEN_TOKENS_CPU
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return head_dim <= WIDEST_HEAD and _computes_in(model) == torch.bfloat16 and flash_works(device)


def _computes_in(model: nn.Module) -> torch.dtype:
    """The type that attention's inputs have on a card."""
    if torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)


def cu_seqlens(segments_bt: np.ndarray) -> np.ndarray:
    """Where the documents of a batch end, int32 (1, 1, 1, n): 0, the end of each in the rows laid end to end, the last
    repeated.

    The four dimensions are those of a mask, which transformers hands through. n is a power of two, so that batches
    seldom differ in shape.
    """
    first = np.ones((segments_bt.shape[0], 1), dtype=bool)
    begins = np.flatnonzero(np.concatenate([first, np.diff(segments_bt, axis=1) != 0], axis=1))
    padded = np.full(1 << len(begins).bit_length(), segments_bt.size, dtype=np.int32)
    padded[: len(begins)] = begins
    return padded[None, None, None]


def varlen_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: query (b, h, t, d), key and value of as many heads or fewer; returns (b, t, h, d)."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
        return plain
    assert dropout == 0.0, "a base is trained without dropout"
    rows, _, tokens, _ = query.shape
    way = _flash_varlen if query.is_cuda else _bucketed_sdpa
    flat = (x.transpose(1, 2).reshape(rows * tokens, x.shape[1], x.shape[3]) for x in (query, key, value))
    out = way(*flat, attention_mask.flatten(), tokens, scaling, sliding_window)
    return out.view(rows, tokens, *out.shape[1:]), None


def _bucketed_sdpa(
    query: Tensor, key: Tensor, value: Tensor, ends_n: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """(tokens, h, d) each: torch's own kernel on documents of like length at a time.

    They are filled up on the right, where causal attention does not look, with copies of their last token.
    """
    bounds = ends_n.cpu().numpy()
    lengths = np.diff(bounds)
    begins, lengths = bounds[:-1][lengths > 0], lengths[lengths > 0]
    if len(set(lengths.tolist())) == 1:
        return _together((query, key, value), len(lengths), scaling, window)
    sizes = -(-lengths // LENGTH_BUCKET) * LENGTH_BUCKET
    there, back, shapes = [], np.empty(bounds[-1], np.int64), []
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        place = np.arange(size)
        source = begins[alike, None] + np.minimum(place, lengths[alike, None] - 1)
        real = place < lengths[alike, None]
        back[source[real]] = sum(map(len, there)) + np.flatnonzero(real)
        there.append(source.ravel())
        shapes.append(len(alike))
    filled = torch.from_numpy(np.concatenate(there)).to(query.device)
    groups = zip(
        *(x.index_select(0, filled).split([len(of) for of in there]) for x in (query, key, value)), strict=True
    )
    made = [_together(parts, documents, scaling, window) for parts, documents in zip(groups, shapes, strict=True)]
    return torch.cat(made).index_select(0, torch.from_numpy(back).to(query.device))


def _together(parts: Sequence[Tensor], documents: int, scaling: float | None, window: int | None) -> Tensor:
    """Documents of one length laid end to end, (documents * length, h, d) each."""
    query, key, value = (part.unflatten(0, (documents, -1)).transpose(1, 2) for part in parts)
    near = _sliding_window_mask(query.shape[2], window, query.device)
    grouped = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=near, is_causal=near is None, scale=scaling, **grouped
    )
    return out.transpose(1, 2).flatten(0, 1)


def _sliding_window_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """The mask of a document that is longer than the window; None for others."""
    if window is None or tokens <= window:
        return None
    back = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (back >= 0) & (back < window)


def _flash_varlen(
    query: Tensor, key: Tensor, value: Tensor, ends_n: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """(tokens, h, d) each: FlashAttention, all documents at once; nothing is asked of the host."""
    from torch.nn.attention.varlen import varlen_attn

    narrow = (x.to(torch.bfloat16) for x in (query, key, value))
    reach = (-1 if window is None else window - 1, 0)
    out: Tensor = varlen_attn(
        *narrow, ends_n, ends_n, longest, longest, scale=scaling, window_size=reach, **_grouped(query, key)
    )
    return out


def _grouped(query: Tensor, key: Tensor) -> dict[str, bool]:
    """torch 2.11 takes fewer heads of keys without being told."""
    from torch.nn.attention.varlen import varlen_attn

    said = query.shape[1] != key.shape[1] and "enable_gqa" in inspect.signature(varlen_attn).parameters
    return {"enable_gqa": True} if said else {}


@functools.cache
def flash_works(device: torch.device) -> bool:
    """Whether the card's kernel gives, for a few short documents, the values and gradients of torch's own."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401

        return _trial(device)
    except (ImportError, RuntimeError, TypeError) as error:
        warnings.warn(f"packed documents are told apart by masks: {str(error).splitlines()[0]}", stacklevel=2)
        return False


def _trial(device: torch.device) -> bool:
    ends_n = torch.tensor([0, 5, 6, 40, 40, 40], dtype=torch.int32, device=device)
    with torch.enable_grad(), torch.autocast("cuda", enabled=False):
        return all(_matches_sdpa(ends_n, kv_heads, window) for kv_heads, window in ((4, None), (2, None), (4, 3)))


def _matches_sdpa(ends_n: Tensor, kv_heads: int, window: int | None) -> bool:
    numbers = torch.arange(40 * 4 * 64, dtype=torch.float64, device=ends_n.device)
    drawn = (2 * torch.sin(numbers * numbers)).view(40, 4, 64).bfloat16()
    results = []
    for way in (_flash_varlen, _bucketed_sdpa):
        own = [drawn[:, :heads].roll(n, 0).clone().requires_grad_() for n, heads in enumerate((4, kv_heads, kv_heads))]
        out = way(*own, ends_n, 34, None, window)
        results.append([out.detach(), *torch.autograd.grad(out, own, drawn)])
    return all(
        bool((one.float() - other.float()).norm() <= CLOSE * other.float().norm())
        for one, other in zip(*results, strict=True)
    )
