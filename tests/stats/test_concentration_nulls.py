"""A rise that says nothing is concentrated too: an equal one by the frequencies of tokens, and noise by chance."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from peftodyssey.measures.tokens.collect import _concentrations, _other_seeds


@pytest.fixture
def text():
    """20,000 tokens of 3,000 types by Zipf's law."""
    chance = 1 / np.arange(1, 3001)
    token = np.random.default_rng(0).choice(3000, 20_000, p=chance / chance.sum())
    return SimpleNamespace(token=token)


def of_types(text, change, between=None):
    return next(row for row in _concentrations(text, change, between) if row["unit"] == "types")


def test_an_equal_rise_is_that_of_frequency_alone(text):
    row = of_types(text, np.full(20_000, 0.01))
    assert row["share_for_50pct"] == row["frequency_share_for_50pct"] < 0.05
    assert row["gini"] == pytest.approx(row["frequency_gini"])
    assert row["gini"] > 0.7
    assert row["fall_gini"] is None
    assert "seed_gini" not in row


def test_noise_is_as_concentrated_as_what_fell_and_as_seed_against_seed(text):
    rng = np.random.default_rng(1)
    row = of_types(text, rng.normal(size=20_000), rng.normal(size=20_000))
    for null in ("fall", "seed"):
        assert row["gini"] == pytest.approx(row[f"{null}_gini"], abs=0.03)
        assert row["share_for_50pct"] == pytest.approx(row[f"{null}_share_for_50pct"], rel=0.25)


def test_a_rise_on_one_type_is_told_from_its_nulls(text):
    rng = np.random.default_rng(2)
    change = 0.01 * rng.normal(size=20_000) + 2.0 * (text.token == 20)
    row = of_types(text, change, 0.01 * rng.normal(size=20_000))
    assert row["share_for_50pct"] < 0.1 * min(row[f"{null}_share_for_50pct"] for null in ("fall", "frequency", "seed"))


def test_tokens_that_are_not_scored_do_not_count(text):
    change = np.full(20_000, 0.01)
    change[::2] = np.nan
    tokens = [row for row in _concentrations(text, change, None) if row["unit"] == "tokens"]
    assert [row["units"] for row in tokens] == [10_000]
    assert tokens[0]["frequency_gini"] == pytest.approx(0, abs=1e-9)


def test_the_other_seed_differs_in_nothing_else():
    def cell(number, setting, seed, lr=1e-3):
        coordinates = {"lr": lr, "seed": seed}
        return {
            "number": number,
            "recipe": "r",
            "setting": setting,
            "coordinates": coordinates,
            "scores": {"test": {"index": "i"}},
        }

    cells = [cell(0, "a", 0), cell(1, "a", 1), cell(2, "a", 2), cell(3, "a", 0, 1e-4), cell(4, "b", 0)]
    assert {number: other["number"] for number, other in _other_seeds(cells).items()} == {0: 1, 1: 2, 2: 0}
