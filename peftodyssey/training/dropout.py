"""Dropout whose masks depend only on the seed, the sequence and the module.

A sequence that is computed again, in another micro-batch or beside other adapters, drops the same elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class SeededDropout:
    """For each row of the current micro-batch, the seed and the index in training of its sequence."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    def set_rows(self, seeds: Sequence[int], indices: Sequence[Sequence[int]]) -> None:
        """Announces the next micro-batch: for each member in turn its seed and the indices of its sequences."""
        self.rows = [(seed, int(index)) for seed, of_member in zip(seeds, indices, strict=True) for index in of_member]

    def drop(self, x_bti: Tensor, target: str, probability: float, first_row: int = 0) -> Tensor:
        """`x` with elements zeroed at random and the others scaled up; row 0 of `x` is row `first_row` of the batch."""
        mask = torch.stack([self._mask(x_bti, target, probability, first_row + row) for row in range(x_bti.shape[0])])
        return x_bti * mask.to(x_bti.dtype).div_(1 - probability)

    def _mask(self, x_bti: Tensor, target: str, probability: float, row: int) -> Tensor:
        seed, index = self.rows[row]
        key = hashlib.blake2b(f"{seed} {index} {target}".encode(), digest_size=8).digest()
        generator = self._generators.setdefault(x_bti.device, torch.Generator(x_bti.device))
        generator.manual_seed(int.from_bytes(key, "little") >> 1)
        mask = torch.empty(x_bti.shape[1:], dtype=torch.bool, device=x_bti.device)
        return mask.bernoulli_(1 - probability, generator=generator)
