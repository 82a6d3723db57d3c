"""LoRA adapters of several members stacked, so that they are multiplied and updated together.

Members of similar rank share a bucket, their ranks padded to the bucket's rank with zeros, whose gradients are exactly
zero. The parameters of a bucket are one matrix (members, elements), of which each target module sees views; so are the
gradients and moments. Shapes: k members, i inputs, o outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from peftodyssey.multi_lora.adapters import Adapter, InitialState, named_tensors
from peftodyssey.training.optim import MOMENTS

PADDED_RANKS = (4, 16, 64, 256, 1024)


@dataclass
class RankBucket:
    """Members of one padded rank: parameters, gradients and moments, each (members, elements)."""

    members: list[int]  # their numbers, ascending
    rank: int
    offsets: dict[str, tuple[int, int, int]]  # target -> where its factors begin, inputs, outputs
    params: Tensor
    grads: Tensor
    moments: tuple[Tensor, Tensor]
    scaling: dict[str, Tensor]  # target -> (k, 1, 1)
    dropout: list[float]  # of each member
    compute_params: Tensor = field(default_factory=lambda: torch.empty(0))  # `params` in the type of the products

    def lora_A(self, target: str, matrix: Tensor) -> Tensor:
        """The view (k, r, i) of a target's first factors in `params`, `grads`, a moment or `compute_params`."""
        begin, inputs, _ = self.offsets[target]
        return matrix[:, begin : begin + self.rank * inputs].view(-1, self.rank, inputs)

    def lora_B(self, target: str, matrix: Tensor) -> Tensor:
        """The view (k, o, r) of a target's second factors."""
        begin, inputs, outputs = self.offsets[target]
        begin += self.rank * inputs
        return matrix[:, begin : begin + outputs * self.rank].view(-1, outputs, self.rank)

    def write(self, matrix: Tensor, row: int, adapter: Adapter) -> None:
        """Copies one member's factors into its row of `matrix`."""
        for target, lora_A_ri in adapter.lora_A.items():
            rank = lora_A_ri.shape[0]
            self.lora_A(target, matrix)[row, :rank] = lora_A_ri.to(matrix.device)
            self.lora_B(target, matrix)[row, :, :rank] = adapter.lora_B[target].to(matrix.device)

    def read(self, matrix: Tensor, row: int, like: Adapter) -> Adapter:
        """A copy of one member's factors, in the targets and ranks of `like`."""
        ranks = {target: lora_A_ri.shape[0] for target, lora_A_ri in like.lora_A.items()}
        lora_A = {target: self.lora_A(target, matrix)[row, :rank].clone() for target, rank in ranks.items()}
        lora_B = {target: self.lora_B(target, matrix)[row, :, :rank].clone() for target, rank in ranks.items()}
        return Adapter(lora_A, lora_B, like.scaling, like.dropout)


@dataclass
class LoraBanks:
    """The buckets of all members; the members' rows in a batch follow each other bucket by bucket."""

    buckets: list[RankBucket]
    targets: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """The members' numbers by row."""
        return [member for bucket in self.buckets for member in bucket.members]

    def rows(self) -> Iterator[tuple[RankBucket, slice]]:
        """Each bucket with the rows of its members."""
        begin = 0
        for bucket in self.buckets:
            yield bucket, slice(begin, begin := begin + len(bucket.members))

    def find(self, member: int) -> tuple[RankBucket, int]:
        """The bucket of a member and its row there."""
        bucket = next(bucket for bucket in self.buckets if member in bucket.members)
        return bucket, bucket.members.index(member)

    def update_compute_copies(self, compute: torch.dtype | None) -> None:
        """Copies the parameters to the type of the products; call it after every update."""
        for bucket in self.buckets:
            if compute is None:
                bucket.compute_params = bucket.params
            elif bucket.compute_params.shape == bucket.params.shape:
                bucket.compute_params.copy_(bucket.params)
            else:
                bucket.compute_params = bucket.params.to(compute)


def stack_adapters(starts: Mapping[int, InitialState], device: torch.device) -> LoraBanks:
    """Banks of these members, in their weights' type; the factors of a target that a member lacks are and stay zero."""
    adapters = {member: start.weights for member, start in starts.items()}
    targets = tuple(dict.fromkeys(target for adapter in adapters.values() for target in adapter.lora_A))
    sizes = {
        target: next(
            (adapter.lora_A[target].shape[1], adapter.lora_B[target].shape[0])
            for adapter in adapters.values()
            if target in adapter.lora_A
        )
        for target in targets
    }
    by_rank: dict[int, dict[int, InitialState]] = {}
    for member in sorted(adapters):
        padded = next(rank for rank in PADDED_RANKS if rank >= adapters[member].rank)
        by_rank.setdefault(padded, {})[member] = starts[member]
    return LoraBanks([_bucket(by_rank[rank], rank, sizes, device) for rank in sorted(by_rank)], targets)


def _bucket(
    starts: Mapping[int, InitialState], rank: int, sizes: Mapping[str, tuple[int, int]], device: torch.device
) -> RankBucket:
    offsets, elements = {}, 0
    for target, (inputs, outputs) in sizes.items():
        offsets[target] = (elements, inputs, outputs)
        elements += rank * (inputs + outputs)
    adapters = [start.weights for start in starts.values()]
    dtype = next(iter(adapters[0].lora_A.values())).dtype
    shape = (len(adapters), elements)
    params, grads, exp_avg, exp_avg_sq = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(4))

    def scaling(target: str) -> Tensor:
        values = [adapter.scaling.get(target, 0.0) for adapter in adapters]
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)

    bucket = RankBucket(
        members=list(starts),
        rank=rank,
        offsets=offsets,
        params=params,
        grads=grads,
        moments=(exp_avg, exp_avg_sq),
        scaling={target: scaling(target) for target in sizes},
        dropout=[adapter.dropout for adapter in adapters],
    )
    for row, start in enumerate(starts.values()):
        bucket.write(params, row, start.weights)
        for matrix, moment in zip(bucket.moments, start.moments or (), strict=False):
            bucket.write(matrix, row, moment)
    return bucket


def extract_adapter(banks: LoraBanks, member: int, like: Adapter) -> Adapter:
    """A copy of one member's current factors, in the ranks of `like`."""
    bucket, row = banks.find(member)
    return bucket.read(bucket.params, row, like)


def checkpoint_tensors(banks: LoraBanks, member: int, like: Adapter, step: int) -> dict[str, Tensor]:
    """A member's weights and AdamW state under the names that a training of it alone saves them by."""
    bucket, row = banks.find(member)
    tensors = named_tensors("parameter/", bucket.read(bucket.params, row, like))
    tensors |= {name.replace("parameter/", "adam.step/"): torch.tensor(float(step)) for name in tensors}
    for moment, matrix in zip(MOMENTS, bucket.moments, strict=True):
        tensors |= named_tensors(f"adam.{moment}/", bucket.read(matrix, row, like))
    return tensors


def drop_members(banks: LoraBanks, leaving: Sequence[int]) -> LoraBanks:
    """The banks of the remaining members, with the same parameters and moments."""
    buckets = []
    for bucket in banks.buckets:
        rows = [row for row, member in enumerate(bucket.members) if member not in leaving]
        if rows:
            index = torch.tensor(rows, device=bucket.params.device)
            params, grads, exp_avg, exp_avg_sq, compute_params = (
                matrix.index_select(0, index)
                for matrix in (bucket.params, bucket.grads, *bucket.moments, bucket.compute_params)
            )
            remaining = replace(
                bucket,
                members=[bucket.members[row] for row in rows],
                params=params,
                grads=grads,
                moments=(exp_avg, exp_avg_sq),
                scaling={target: values.index_select(0, index) for target, values in bucket.scaling.items()},
                dropout=[bucket.dropout[row] for row in rows],
                compute_params=compute_params,
            )
            buckets.append(remaining)
    return LoraBanks(buckets, banks.targets)


def to_host(banks: LoraBanks) -> LoraBanks:
    """The banks in host memory, parameters and moments alone: between two steps the gradients are zero."""
    none = torch.empty(0)
    return _moved(banks, torch.device("cpu"), lambda params: none)


def to_device(banks: LoraBanks, device: torch.device) -> LoraBanks:
    """The banks of `to_host` on `device`, gradients zero; `update_compute_copies` fills the copies for the products."""
    return _moved(banks, device, torch.zeros_like)


def _moved(banks: LoraBanks, device: torch.device, grads: Callable[[Tensor], Tensor]) -> LoraBanks:
    buckets = []
    for bucket in banks.buckets:
        params, exp_avg, exp_avg_sq = (matrix.to(device) for matrix in (bucket.params, *bucket.moments))
        scaling = {target: values.to(device) for target, values in bucket.scaling.items()}
        moved = replace(
            bucket,
            params=params,
            grads=grads(params),
            moments=(exp_avg, exp_avg_sq),
            scaling=scaling,
            compute_params=torch.empty(0),
        )
        buckets.append(moved)
    return LoraBanks(buckets, banks.targets)
