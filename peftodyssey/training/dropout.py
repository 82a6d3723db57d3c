"""Dropout whose masks depend on the seed, the block and the module alone: not on the micro-batch, not on who else
trains.

A block that is computed again, in another micro-batch or beside other members of a fleet, loses the same numbers. Set
by `train.gradients` for every micro-batch, read by the lean LoRA modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class SeededDropout:
    """Which blocks pass through the model now: for each row of the batch a seed and the block's place in the training."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    def at(self, seeds: Sequence[int], places: Sequence[Sequence[int]]) -> None:
        """The next batch holds, member by member, the blocks at these places."""
        self.rows = [(seed, int(place)) for seed, own in zip(seeds, places, strict=True) for place in own]

    def dropped(self, x_bti: Tensor, target: str, share: float, first_row: int = 0) -> Tensor:
        """`x` with a share of its numbers at zero and the others scaled up; row 0 of `x` is row `first_row` of the
        batch.
        """
        mask = torch.stack([self._mask(x_bti, target, share, first_row + row) for row in range(x_bti.shape[0])])
        return x_bti * mask.to(x_bti.dtype).div_(1 - share)

    def _mask(self, x_bti: Tensor, target: str, share: float, row: int) -> Tensor:
        seed, place = self.rows[row]
        key = hashlib.blake2b(f"{seed} {place} {target}".encode(), digest_size=8).digest()
        generator = self._generators.setdefault(x_bti.device, torch.Generator(x_bti.device))
        generator.manual_seed(int.from_bytes(key, "little") >> 1)
        return torch.empty(x_bti.shape[1:], dtype=torch.bool, device=x_bti.device).bernoulli_(
            1 - share, generator=generator
        )
