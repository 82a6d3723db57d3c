"""AdamW and clipping for a fleet's banks: each member by its own rate, norm and decay. `train.fleet` calls it.

The arithmetic is torch.optim.AdamW's (Loshchilov and Hutter, arXiv 1711.05101), on matrices whose rows are members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from peftodyssey.train.banks import Banks, Berth
from peftodyssey.train.settings import TrainSettings


def norms(banks: Banks) -> Tensor:
    """The global gradient norm of every member, (k,), on the device."""
    wide = torch.promote_types(banks.berths[0].grads.dtype, torch.float32)
    return torch.cat([torch.linalg.vector_norm(berth.grads, dim=1, dtype=wide) for berth in banks.berths])


def update(banks: Banks, grad_norms: Tensor, lrs: Sequence[float], settings: Sequence[TrainSettings], steps: Sequence[int]) -> None:
    """Clips and applies the members' gradients, each at its own step (from 1), and empties them.

    Rows do not meet, so that a broken member stays alone. Betas and eps are those of the first.
    """
    (beta1, beta2), eps, begin = settings[0].betas, settings[0].eps, 0
    for berth in banks.berths:
        rows = slice(begin, begin := begin + len(berth.members))
        scales = [_clip_scale(norm, of.grad_clip) for norm, of in zip(grad_norms[rows], settings[rows], strict=True)]
        berth.grads.mul_(torch.stack(scales).to(berth.grads.dtype)[:, None])
        first, second = berth.moments
        berth.numbers.mul_(_column(berth, [1 - lr * of.weight_decay for lr, of in zip(lrs[rows], settings[rows], strict=True)]))
        first.lerp_(berth.grads, 1 - beta1)
        second.mul_(beta2).addcmul_(berth.grads, berth.grads, value=1 - beta2)
        denominator = second.sqrt().div_(_column(berth, [(1 - beta2**step) ** 0.5 for step in steps[rows]])).add_(eps)
        rates = _column(berth, [lr / (1 - beta1**step) for lr, step in zip(lrs[rows], steps[rows], strict=True)])
        berth.numbers.sub_(first.div(denominator).mul_(rates))
        berth.grads.zero_()


def _clip_scale(norm: Tensor, largest: float) -> Tensor:
    """As torch.nn.utils.clip_grads_with_norm_ does it."""
    return torch.clamp(largest / (norm + 1e-6), max=1.0) if largest > 0 else torch.ones_like(norm)


def _column(berth: Berth, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=berth.numbers.dtype, device=berth.numbers.device)[:, None]
