"""Attention within the documents of packed rows by cu_seqlens (ends of documents) instead of a mask.

A mask has an entry for every pair of tokens of a row and makes kernels slow; cu_seqlens has one number per document,
and nothing between two documents is computed. On a GPU, in bf16, this is FlashAttention's kernel for sequences of
unequal length (Dao, arXiv 2307.08691) from `torch.nn.attention.varlen`; on a CPU, for long rows, torch's sdpa on
documents of similar length together. Elsewhere, and without cu_seqlens, it is transformers' sdpa with its masks.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftodyssey.constants import ATTENTION_DROPOUT, DROP_PROBABILITIES, VARLEN_ATTENTION
from peftodyssey.models.attention_dropout import attention_with_dropout
from peftodyssey.models.shape_from_config import FAMILIES

NAME = VARLEN_ATTENTION
MAX_FLASH_HEAD_DIM, FLASH_HEAD_DIM_MULTIPLE = 256, 8  # of FlashAttention 2
MIN_VARLEN_TOKENS_CPU = 512  # tokens of a row on a CPU: in shorter ones a mask is faster
LENGTH_BUCKET = 64  # tokens: documents are computed together if their lengths round up to the same multiple
MAX_RELATIVE_ERROR = 0.05  # of the kernel's check: a few roundings in bf16


def install(model: Any) -> None:
    """Makes a model of a known family with sdpa attention use `varlen_attention_forward`; others stay as they are.

    Attention modules of these families pass a mask and their sliding window on unchanged.
    """
    config = text_config(model)
    if config._attn_implementation == "sdpa" and config.model_type in FAMILIES:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        AttentionInterface.register(NAME, varlen_attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME


def text_config(model: Any) -> Any:
    """The config of the language model, which multimodal models nest in theirs."""
    return model.config.get_text_config()


def supports_varlen(model: nn.Module, device: torch.device, row_tokens: int) -> bool:
    """Whether cu_seqlens may be the mask of a pass of such rows on `device`, under the present autocast."""
    config = text_config(model)
    if model.training and vars(model).get(ATTENTION_DROPOUT):
        return False
    if config._attn_implementation != NAME or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cpu":
        return row_tokens >= MIN_VARLEN_TOKENS_CPU
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = head_dim <= MAX_FLASH_HEAD_DIM and head_dim % FLASH_HEAD_DIM_MULTIPLE == 0
    return fits and _cuda_compute_dtype(model) == torch.bfloat16 and flash_works(device)


def _cuda_compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of attention's inputs on a GPU."""
    if torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return next(p.dtype for p in model.parameters() if p.dtype.is_floating_point)


def cu_seqlens(segments_bt: np.ndarray) -> np.ndarray:
    """Cumulative document lengths of a batch, int32 (1, 1, 1, n): 0, the end of each document in the concatenated rows,
    the last one repeated.

    It has the four dimensions of a mask, so that transformers passes it on. n is a power of two, so that few batches
    differ in shape.
    """
    first = np.ones((segments_bt.shape[0], 1), dtype=bool)
    starts = np.flatnonzero(np.concatenate([first, np.diff(segments_bt, axis=1) != 0], axis=1))
    padded = np.full(1 << len(starts).bit_length(), segments_bt.size, dtype=np.int32)
    padded[: len(starts)] = starts
    return padded[None, None, None]


def varlen_attention_forward(  # the parameters are those of transformers' attention interface
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
    """query (b, h, t, d), key and value with h or fewer heads; returns (b, t, h, d).

    In training with dropout of the probabilities its masks are those that the module holds (`models.patching`).
    """
    drop = vars(module).get(DROP_PROBABILITIES)
    if dropout and drop is not None:
        return attention_with_dropout(query, key, value, attention_mask, scaling, dropout, drop), None
    if attention_mask is None or attention_mask.dtype != torch.int32:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
        return output
    assert dropout == 0.0, "with dropout there is a mask"
    rows, _, tokens, _ = query.shape
    attend = _flash_varlen if query.is_cuda else _bucketed_sdpa
    query, key, value = (x.transpose(1, 2).reshape(rows * tokens, x.shape[1], x.shape[3]) for x in (query, key, value))
    out = attend(query, key, value, attention_mask.flatten(), tokens, scaling, sliding_window)
    return out.view(rows, tokens, *out.shape[1:]), None


def _bucketed_sdpa(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_len: int, scale: float | None, window: int | None
) -> Tensor:
    """(tokens, h, d) each: torch's sdpa, on the documents of one bucket of lengths at a time.

    Documents are padded on the right, where causal attention does not look, with copies of their last token.
    """
    edges = cu_seqlens.cpu().numpy()
    lengths = np.diff(edges)
    starts, lengths = edges[:-1][lengths > 0], lengths[lengths > 0]
    if len(set(lengths.tolist())) == 1:
        return _sdpa_equal_lengths(query, key, value, len(lengths), scale, window)
    padded_lengths = -(-lengths // LENGTH_BUCKET) * LENGTH_BUCKET
    sources: list[np.ndarray] = []  # by bucket: the tokens to take
    counts: list[int] = []  # by bucket: documents
    unpad = np.empty(edges[-1], np.int64)
    for padded_length in np.unique(padded_lengths):
        bucket = np.flatnonzero(padded_lengths == padded_length)
        position = np.arange(padded_length)
        source = starts[bucket, None] + np.minimum(position, lengths[bucket, None] - 1)
        is_token = position < lengths[bucket, None]
        unpad[source[is_token]] = sum(s.size for s in sources) + np.flatnonzero(is_token)
        sources.append(source.ravel())
        counts.append(len(bucket))
    padded = torch.from_numpy(np.concatenate(sources)).to(query.device)
    sizes = [len(source) for source in sources]
    queries, keys, values = (x.index_select(0, padded).split(sizes) for x in (query, key, value))
    outputs = [
        _sdpa_equal_lengths(q, k, v, count, scale, window)
        for q, k, v, count in zip(queries, keys, values, counts, strict=True)
    ]
    return torch.cat(outputs).index_select(0, torch.from_numpy(unpad).to(query.device))


def _sdpa_equal_lengths(
    query: Tensor, key: Tensor, value: Tensor, documents: int, scale: float | None, window: int | None
) -> Tensor:
    """sdpa on concatenated documents of one length, (documents * length, h, d) each."""
    query, key, value = (x.unflatten(0, (documents, -1)).transpose(1, 2) for x in (query, key, value))
    mask = _sliding_window_mask(query.shape[2], window, query.device)
    grouped = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, **grouped
    )
    return out.transpose(1, 2).flatten(0, 1)


def _sliding_window_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """The mask of a document that is longer than the window; None for others."""
    if window is None or tokens <= window:
        return None
    distance = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (distance >= 0) & (distance < window)


def _flash_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_len: int, scale: float | None, window: int | None
) -> Tensor:
    """(tokens, h, d) each: FlashAttention on all documents at once, without a transfer to the host."""
    from torch.nn.attention import varlen

    varlen_attn: Any = varlen.varlen_attn  # its parameters differ between versions of torch
    options: dict[str, Any] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    if query.shape[1] != key.shape[1] and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True  # torch 2.11 takes fewer key heads without it
    query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
    out: Tensor = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_len, max_len, **options)
    return out


@functools.cache
def flash_works(device: torch.device) -> bool:
    """Whether the GPU's kernel gives the values and gradients of torch's sdpa for a few short documents."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    cu_seqlens = torch.tensor([0, 5, 6, 40, 40, 40], dtype=torch.int32, device=device)
    try:
        with torch.enable_grad(), torch.autocast("cuda", enabled=False):
            cases = ((4, None), (2, None), (4, 3))
            return all(_matches_sdpa(cu_seqlens, kv_heads, window) for kv_heads, window in cases)
    except (ImportError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"packed documents are separated by masks, without FlashAttention: {reason}", stacklevel=2)
        return False


def _matches_sdpa(cu_seqlens: Tensor, kv_heads: int, window: int | None) -> bool:
    numbers = torch.arange(40 * 4 * 64, dtype=torch.float64, device=cu_seqlens.device)
    values = (2 * torch.sin(numbers * numbers)).view(40, 4, 64).bfloat16()
    results = []
    for attend in (_flash_varlen, _bucketed_sdpa):
        query, key, value = (
            values[:, :heads].roll(shift, 0).clone().requires_grad_()
            for shift, heads in enumerate((4, kv_heads, kv_heads))
        )
        out = attend(query, key, value, cu_seqlens, 34, None, window)
        results.append([out.detach(), *torch.autograd.grad(out, (query, key, value), values)])
    return all(
        bool((flash.float() - sdpa.float()).norm() <= MAX_RELATIVE_ERROR * sdpa.float().norm())
        for flash, sdpa in zip(*results, strict=True)
    )
