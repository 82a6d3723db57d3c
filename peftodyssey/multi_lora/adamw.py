"""AdamW and gradient clipping for stacked adapters: each member with its own learning rate, norm and weight decay.

The arithmetic is torch.optim.AdamW's (Loshchilov and Hutter, arXiv 1711.05101), on matrices whose rows are members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peftodyssey.multi_lora.state import LoraBanks, RankBucket
from peftodyssey.training.settings import TrainSettings

CHUNK_BYTES = 32 << 20  # of one temporary of an update


@dataclass(frozen=True)
class MemberUpdate:
    """What the update of one member needs besides its gradients."""

    settings: TrainSettings
    step: int  # from 1
    lr: float


def grad_norms(banks: LoraBanks) -> Tensor:
    """The global gradient norm of every member, (k,), on the device."""
    dtype = torch.promote_types(banks.buckets[0].grads.dtype, torch.float32)
    return torch.cat([torch.linalg.vector_norm(bucket.grads, dim=1, dtype=dtype) for bucket in banks.buckets])


def update(banks: LoraBanks, grad_norms: Tensor, updates: Sequence[MemberUpdate]) -> None:
    """Clips and applies the members' gradients and zeroes them; `updates` is in the order of the banks' rows.

    Rows do not mix, so that a member that diverges leaves the others alone. Betas and eps are those of the first.
    """
    for bucket, rows in banks.rows():
        _update_bucket(bucket, grad_norms[rows], updates[rows])


def _update_bucket(bucket: RankBucket, grad_norms: Tensor, updates: Sequence[MemberUpdate]) -> None:
    """One update, some columns at a time, so that its temporaries stay small."""
    (beta1, beta2), eps = updates[0].settings.betas, updates[0].settings.eps

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=bucket.params.dtype, device=bucket.params.device)[:, None]

    scales = [_clip_scale(norm, member.settings.grad_clip) for norm, member in zip(grad_norms, updates, strict=True)]
    scale_k1 = torch.stack(scales).to(bucket.grads.dtype)[:, None]
    decay_k1 = column([1 - member.lr * member.settings.weight_decay for member in updates])
    step_size_k1 = column([member.lr / (1 - beta1**member.step) for member in updates])
    correction_k1 = column([(1 - beta2**member.step) ** 0.5 for member in updates])
    columns = max(1, CHUNK_BYTES // (bucket.params.element_size() * len(bucket.members)))
    for begin in range(0, bucket.params.shape[1], columns):
        params, grads, exp_avg, exp_avg_sq = (
            matrix[:, begin : begin + columns] for matrix in (bucket.params, bucket.grads, *bucket.moments)
        )
        grads.mul_(scale_k1)
        params.mul_(decay_k1)
        exp_avg.lerp_(grads, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        denominator = exp_avg_sq.sqrt().div_(correction_k1).add_(eps)
        params.sub_(exp_avg.div(denominator).mul_(step_size_k1))
        grads.zero_()


def _clip_scale(norm: Tensor, grad_clip: float) -> Tensor:
    """The same factor as torch.nn.utils.clip_grads_with_norm_."""
    return torch.clamp(grad_clip / (norm + 1e-6), max=1.0) if grad_clip > 0 else torch.ones_like(norm)
