"""AdamW and clipping for a fleet's banks: each member by its own rate, norm and decay. `train.multi_lora` calls it.

The arithmetic is torch.optim.AdamW's (Loshchilov and Hutter, arXiv 1711.05101), on matrices whose rows are members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peftodyssey.multi_lora.state import LoraBanks, RankBucket
from peftodyssey.training.settings import TrainSettings

CHUNK_BYTES = 32 << 20  # of one temporary of an update


def grad_norms(banks: LoraBanks) -> Tensor:
    """The global gradient norm of every member, (k,), on the device."""
    wide = torch.promote_types(banks.berths[0].grads.dtype, torch.float32)
    return torch.cat([torch.linalg.vector_norm(berth.grads, dim=1, dtype=wide) for berth in banks.berths])


def update(
    banks: LoraBanks, grad_norms: Tensor, lrs: Sequence[float], settings: Sequence[TrainSettings], steps: Sequence[int]
) -> None:
    """Clips and applies the members' gradients, each at its own step (from 1), and empties them.

    Rows do not meet, so that a broken member stays alone. Betas and eps are those of the first.
    """
    (beta1, beta2), eps, begin = settings[0].betas, settings[0].eps, 0
    for berth in banks.berths:
        rows = slice(begin, begin := begin + len(berth.members))
        scales = [_clip_scale(norm, of.grad_clip) for norm, of in zip(grad_norms[rows], settings[rows], strict=True)]
        _apply(
            berth,
            scale_k1=torch.stack(scales).to(berth.grads.dtype)[:, None],
            decay_k1=_column(
                berth, [1 - lr * of.weight_decay for lr, of in zip(lrs[rows], settings[rows], strict=True)]
            ),
            rate_k1=_column(berth, [lr / (1 - beta1**step) for lr, step in zip(lrs[rows], steps[rows], strict=True)]),
            root_k1=_column(berth, [(1 - beta2**step) ** 0.5 for step in steps[rows]]),
            betas=(beta1, beta2),
            eps=eps,
        )


def _apply(
    berth: RankBucket,
    scale_k1: Tensor,
    decay_k1: Tensor,
    rate_k1: Tensor,
    root_k1: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One update, some columns at a time, so that its temporaries stay small."""
    columns = max(1, CHUNK_BYTES // (berth.params.element_size() * len(berth.members)))
    for begin in range(0, berth.params.shape[1], columns):
        numbers, grads, first, second = (
            whole[:, begin : begin + columns] for whole in (berth.params, berth.grads, *berth.moments)
        )
        grads.mul_(scale_k1)
        numbers.mul_(decay_k1)
        first.lerp_(grads, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(grads, grads, value=1 - betas[1])
        denominator = second.sqrt().div_(root_k1).add_(eps)
        numbers.sub_(first.div(denominator).mul_(rate_k1))
        grads.zero_()


def _clip_scale(norm: Tensor, largest: float) -> Tensor:
    """As torch.nn.utils.clip_grads_with_norm_ does it."""
    return torch.clamp(largest / (norm + 1e-6), max=1.0) if largest > 0 else torch.ones_like(norm)


def _column(berth: RankBucket, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=berth.params.dtype, device=berth.params.device)[:, None]
