"""LoRA adapters of several members stacked, so that they are multiplied and updated together.

Members of like rank stand together in a berth, their ranks padded to its rank with zeros, whose gradients are exactly
zero. A berth's numbers are one matrix (members, numbers), of which each adapted module sees views; so are its gradients
and moments. `train.boarding` puts banks on a model, `train.stacked` updates them. Shapes: k members, i inputs, o
outputs, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from peftodyssey.multi_lora.adapters import Adapter, InitialState, named
from peftodyssey.training.optim import MOMENTS

PADDED_RANKS = (4, 16, 64, 256, 1024)


@dataclass
class RankBucket:
    """Members of one padded rank: their numbers, gradients and moments, each (members, numbers), and where a target's
    lie.
    """

    members: list[int]  # their numbers in the fleet, ascending
    rank: int
    offsets: dict[str, tuple[int, int, int]]  # target -> where its factors begin, inputs, outputs
    params: Tensor
    grads: Tensor
    moments: tuple[Tensor, Tensor]
    scaling: dict[str, Tensor]  # target -> (k, 1, 1)
    dropout: list[float]  # of each member
    compute_params: Tensor = field(
        default_factory=lambda: torch.empty(0)
    )  # `numbers` in the type that products are formed in

    def down(self, target: str, whole: Tensor) -> Tensor:
        """The view (k, r, i) of a target's first factors in `numbers`, `grads` or `working`."""
        begin, inputs, _ = self.offsets[target]
        return whole[:, begin : begin + self.rank * inputs].view(-1, self.rank, inputs)

    def up(self, target: str, whole: Tensor) -> Tensor:
        """The view (k, o, r) of its second factors."""
        begin, inputs, outputs = self.offsets[target]
        begin += self.rank * inputs
        return whole[:, begin : begin + outputs * self.rank].view(-1, outputs, self.rank)


@dataclass
class LoraBanks:
    """All berths of a fleet; `order` names the members as their rows stand in a batch, berth after berth."""

    berths: list[RankBucket]
    targets: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """The members' numbers by row."""
        return [member for berth in self.berths for member in berth.members]

    def update_compute_copies(self, compute: torch.dtype | None) -> None:
        """The working copies after an update."""
        for berth in self.berths:
            if compute is None:
                berth.compute_params = berth.params
            elif berth.compute_params.shape == berth.params.shape:
                berth.compute_params.copy_(berth.params)
            else:
                berth.compute_params = berth.params.to(compute)


def stack_adapters(starts: Mapping[int, InitialState], device: torch.device) -> LoraBanks:
    """Banks of these members, in their weights' type; a target that a member lacks is zero and stays so."""
    adapters = {member: start.weights for member, start in starts.items()}
    targets = tuple(dict.fromkeys(t for adapter in adapters.values() for t in adapter.down_ri))
    sizes = {
        t: next((a.down_ri[t].shape[1], a.up_or[t].shape[0]) for a in adapters.values() if t in a.down_ri)
        for t in targets
    }
    berths = []
    for rank in PADDED_RANKS:
        members = [m for m in sorted(adapters) if _padded(adapters[m].rank) == rank]
        if members:
            berths.append(_berth(members, starts, rank, sizes, device))
    return LoraBanks(berths, targets)


def _padded(rank: int) -> int:
    return next(size for size in PADDED_RANKS if size >= rank)


def _berth(
    members: list[int],
    starts: Mapping[int, InitialState],
    rank: int,
    sizes: Mapping[str, tuple[int, int]],
    device: torch.device,
) -> RankBucket:
    places, total = {}, 0
    for target, (inputs, outputs) in sizes.items():
        places[target] = (total, inputs, outputs)
        total += rank * (inputs + outputs)
    dtype = next(iter(starts[members[0]].weights.down_ri.values())).dtype

    def zeros() -> Tensor:
        return torch.zeros(len(members), total, dtype=dtype, device=device)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)

    scaling = {t: column([starts[m].weights.scaling.get(t, 0.0) for m in members]) for t in sizes}
    berth = RankBucket(
        members,
        rank,
        places,
        zeros(),
        zeros(),
        (zeros(), zeros()),
        scaling,
        [starts[m].weights.dropout for m in members],
    )
    for row, member in enumerate(members):
        start = starts[member]
        _place(berth, berth.params, row, start.weights)
        for whole, moment in zip(berth.moments, start.moments or (), strict=False):
            _place(berth, whole, row, moment)
    return berth


def _place(berth: RankBucket, whole: Tensor, row: int, adapter: Adapter) -> None:
    for target, down_ri in adapter.down_ri.items():
        own = down_ri.shape[0]
        berth.down(target, whole)[row, :own] = down_ri.to(whole.device)
        berth.up(target, whole)[row, :, :own] = adapter.up_or[target].to(whole.device)


def extract_adapter(banks: LoraBanks, member: int, like: Adapter) -> Adapter:
    """One member's factors as they stand, copied, in the ranks of `like`."""
    berth, row = _berth_of(banks, member)
    return _taken(berth, berth.params, row, like)


def _berth_of(banks: LoraBanks, member: int) -> tuple[RankBucket, int]:
    berth = next(berth for berth in banks.berths if member in berth.members)
    return berth, berth.members.index(member)


def _taken(berth: RankBucket, whole: Tensor, row: int, like: Adapter) -> Adapter:
    down = {t: berth.down(t, whole)[row, : of.shape[0]].clone() for t, of in like.down_ri.items()}
    up = {t: berth.up(t, whole)[row, :, : of.shape[0]].clone() for t, of in like.down_ri.items()}
    return Adapter(down, up, like.scaling, like.dropout)


def tensors_of(banks: LoraBanks, member: int, like: Adapter, step: int) -> dict[str, Tensor]:
    """A member's weights and moments under the names that a training of its own saves them by."""
    berth, row = _berth_of(banks, member)
    found = named("parameter", _taken(berth, berth.params, row, like))
    for kind, whole in zip(MOMENTS, berth.moments, strict=True):
        found |= named(f"adam.{kind}", _taken(berth, whole, row, like))
    counts = {
        name.replace("parameter/", "adam.step/"): torch.tensor(float(step))
        for name in found
        if name.startswith("parameter/")
    }
    return found | counts


def drop_members(banks: LoraBanks, leaving: Sequence[int]) -> LoraBanks:
    """The banks of the members that stay, their numbers and moments unchanged."""
    berths = []
    for berth in banks.berths:
        rows = [row for row, member in enumerate(berth.members) if member not in leaving]
        if rows:
            kept = torch.tensor(rows, device=berth.params.device)
            scaling = {target: of.index_select(0, kept) for target, of in berth.scaling.items()}
            numbers, grads, first, second, working = (
                whole.index_select(0, kept)
                for whole in (berth.params, berth.grads, *berth.moments, berth.compute_params)
            )
            members = [berth.members[row] for row in rows]
            berths.append(
                replace(
                    berth,
                    members=members,
                    numbers=numbers,
                    grads=grads,
                    moments=(first, second),
                    scaling=scaling,
                    dropout=[berth.dropout[row] for row in rows],
                    working=working,
                )
            )
    return LoraBanks(berths, banks.targets)
