"""Numbers written back in a narrower type: to nearest where that is exact, else up or down by chance, right on average.

An update below a bf16 weight's resolution is lost by rounding to nearest; by stochastic rounding it is made now and
then (Gupta et al., arXiv 1502.02551; for bf16 training Zamirai et al., arXiv 2010.06192). Called by `train.frugal`.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOST_BITS = 16  # of a float32 that is cut to a bfloat16


def stochastic_round_bf16(wide: Tensor, generator: torch.Generator) -> Tensor:
    """float32 `wide` as bfloat16: each number one of its two neighbours, with the chances that keep its mean."""
    noise = torch.randint(0, 1 << LOST_BITS, wide.shape, dtype=torch.int32, device=wide.device, generator=generator)
    bits = (wide.contiguous().view(torch.int32) + noise) & -(1 << LOST_BITS)
    return bits.view(torch.float32).to(torch.bfloat16)
