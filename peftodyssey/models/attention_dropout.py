"""Attention with dropout of its probabilities, whose masks depend on the seed, the sequence and the module alone.

Attention kernels draw dropout themselves, so that it would differ with the micro-batch; here the probabilities exist:
memory grows with the square of the sequence length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Drop = Callable[[Tensor, float], Tensor]  # (probabilities [b, h, t, t], share to drop) -> the others scaled up


def attention_with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, probability: float, drop: Drop
) -> Tensor:
    """[b, t, h, d] from query [b, h, t, d] and key and value with h or fewer heads, as torch's sdpa computes it.

    `mask` [b, 1, t, t]: True where a token may attend, or a number that is added to its score; None: it attends to
    itself and all before it.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query.contiguous() * scale) @ key.contiguous().transpose(-1, -2)
    if mask is None:
        tokens = query.shape[2]
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    del scores
    probabilities = drop(probabilities.to(value.dtype), probability)
    return (probabilities @ value.contiguous()).transpose(1, 2).contiguous()
