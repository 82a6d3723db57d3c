"""Which rank is enough: by the upper bound of its loss to the best, never with few seeds, never at an edge."""

from __future__ import annotations

import pytest

from peftodyssey.measures.lora_ranks.compute import Trial, rank_verdicts


def trials(values: dict[int, list[float]], unresolved: tuple[int, ...] = ()) -> list[Trial]:
    return [
        Trial(rank, seed, value, rank not in unresolved)
        for rank, found in values.items()
        for seed, value in enumerate(found)
    ]


VALUES = {
    1: [-0.100, -0.110, -0.121],
    4: [-0.290, -0.300, -0.309],
    16: [-0.291, -0.300, -0.310],
    64: [-0.280, -0.289, -0.300],
}


def test_the_upper_bound_of_the_loss_decides() -> None:
    found = rank_verdicts(trials(VALUES), margin=0.005)
    assert {rank: one.verdict for rank, one in found.items()} == {1: "worse", 4: "enough", 16: "enough", 64: "worse"}
    assert found[4].degrees_of_freedom == 6
    assert found[4].loss is not None
    assert 0 < found[4].loss.upper <= 0.005
    assert rank_verdicts(trials(VALUES), margin=0.0015)[4].verdict == "undecided"


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_than_three_have_no_verdict(seeds: int) -> None:
    found = rank_verdicts(trials({rank: values[:seeds] for rank, values in VALUES.items()}))
    assert {one.verdict for one in found.values()} == {"not comparable"}
    assert all(one.reason.startswith(f"{seeds} seed") and one.loss is None for one in found.values())


def test_a_rank_whose_rate_is_not_resolved_is_not_compared() -> None:
    found = rank_verdicts(trials({**VALUES, 128: [-0.9, -0.9, -0.9]}, unresolved=(128,)), margin=0.005)
    assert found[128].verdict == "not comparable"
    assert "edge" in found[128].reason
    assert found[4].verdict == "enough"
    assert all(one.verdict == "not comparable" for one in rank_verdicts(trials(VALUES, (1, 4, 16))).values())


def test_seeds_are_paired_by_number() -> None:
    """A seed that one rank lacks is left out for all: 0.01 between seeds would hide the rank's own loss."""
    short = [*trials({**VALUES, 4: [-0.290]}), Trial(4, 2, -0.309, True), Trial(4, 3, -0.33, True)]
    longer = [*short, *(Trial(rank, 3, values[2] - 0.02, True) for rank, values in VALUES.items() if rank != 4)]
    found = rank_verdicts(longer, margin=0.005)
    assert found[4].seeds == 3
    assert rank_verdicts(short)[4].seeds == 2
