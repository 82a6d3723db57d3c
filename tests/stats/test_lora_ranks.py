"""The trend over ranks: noise by hand, edges left out, ties to the smaller rank."""

from __future__ import annotations

import statistics

import pytest

from peftodyssey.measures.lora_ranks.compute import Trial, rank_trend


def trials(values: dict[int, list[float]], unresolved: tuple[int, ...] = ()) -> list[Trial]:
    return [
        Trial(rank, seed, value, rank not in unresolved)
        for rank, found in values.items()
        for seed, value in enumerate(found)
    ]


def test_the_smallest_rank_within_the_noise_of_the_best() -> None:
    values = {
        1: [-0.10, -0.11, -0.12],
        4: [-0.29, -0.30, -0.31],
        16: [-0.295, -0.305, -0.312],
        64: [-0.20, -0.21, -0.22],
    }
    trend = rank_trend(trials(values))
    variances = [statistics.variance(found) for found in values.values()]
    assert trend.noise.std == pytest.approx(statistics.mean(variances) ** 0.5)
    assert trend.noise.degrees_of_freedom == 8
    assert trend.best == 16
    assert trend.smallest_within_noise == 4
    assert trend.means[1] == pytest.approx(-0.11)


def test_a_rank_whose_rate_is_not_resolved_is_never_compared() -> None:
    values = {1: [-0.1, -0.1], 4: [-0.3, -0.3], 16: [-0.9, -0.9]}
    trend = rank_trend(trials(values, unresolved=(16,)))
    assert trend.best == 4
    assert trend.resolved == (1, 4)
    assert set(trend.means) == {1, 4, 16}
    assert rank_trend(trials(values, unresolved=(1, 4, 16))).best is None


def test_one_seed_has_no_noise() -> None:
    trend = rank_trend(trials({1: [-0.1], 4: [-0.3]}))
    assert (trend.noise.std, trend.best, trend.smallest_within_noise) == (None, 4, None)
