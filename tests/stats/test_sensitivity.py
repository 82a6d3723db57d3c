"""Slopes, their differences and turning points: planted ones are found, and none where there is none."""

import math

import numpy as np
import pytest

from peftodyssey.measures.sensitivity.compute import contrast, slope, slope_difference, slope_weights, turning_point

TOKENS = (16_000_000, 64_000_000, 256_000_000, 1_024_000_000)


def ladder(rng, per_tenfold=0.05, repetitions=5, documents=40, noise=0.02, curve=None, spread=0.02):
    """Rises by rung: a line in log tokens whose slope varies between pairs and documents, and noise."""
    tokens_d = rng.integers(50, 257, documents).astype(float)
    own = per_tenfold + spread * rng.standard_normal((repetitions, 1)) + spread * rng.standard_normal(documents)
    rungs = {}
    for tokens in TOKENS:
        x = math.log10(tokens / TOKENS[0])
        value = own * x if curve is None else curve(x) + spread * rng.standard_normal((repetitions, documents))
        rungs[tokens] = (value + noise * rng.standard_normal((repetitions, documents))) * tokens_d
    return rungs, tokens_d


def test_the_slope_is_that_of_least_squares():
    rungs, tokens_d = ladder(np.random.default_rng(0))
    means = [rungs[tokens].mean(0).sum() / tokens_d.sum() for tokens in TOKENS]
    assert slope(rungs, tokens_d).estimate == pytest.approx(np.polyfit(np.log10(TOKENS), means, 1)[0])
    assert np.isclose(slope_weights(list(TOKENS)).sum(), 0)
    assert contrast(rungs).shape == (5, 40)


def test_equal_copies_have_no_slope():
    rungs, tokens_d = ladder(np.random.default_rng(0))
    copies = dict.fromkeys(TOKENS, rungs[TOKENS[2]])
    found = slope(copies, tokens_d)
    assert found.estimate == pytest.approx(0, abs=1e-12)
    assert found.lower <= 1e-9
    assert found.upper >= -1e-9


def test_the_untrained_rung_has_no_place_on_the_axis():
    rungs, tokens_d = ladder(np.random.default_rng(0))
    assert slope({0: rungs[TOKENS[0]], **rungs}, tokens_d) == slope(rungs, tokens_d)
    assert slope({TOKENS[0]: rungs[TOKENS[0]]}, tokens_d).note == "one rung"


def test_a_line_that_falls_never_turns_and_one_that_rises_turned_before():
    rng = np.random.default_rng(0)
    falling, tokens_d = ladder(rng, curve=lambda x: 3 - x)
    found = turning_point(falling, tokens_d)
    assert (found.tokens, found.lower, found.upper, found.share) == (None, None, None, 0.0)
    rising, tokens_d = ladder(rng, curve=lambda x: 3 + x)
    assert turning_point(rising, tokens_d).share == 1.0


@pytest.mark.slow
def test_intervals_of_slopes_and_differences_cover_the_truth():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(500):
        full, tokens_d = ladder(rng, 0.05)
        one, both = slope(full, tokens_d), slope_difference(full, another_method(full, tokens_d, rng), tokens_d)
        covered.append((one.lower <= 0.05 <= one.upper, both.lower <= 0.03 <= both.upper))
    shares = np.mean(covered, 0)
    assert (shares >= 0.925).all()
    assert (shares <= 0.995).all()


def another_method(full, tokens_d, rng):
    """A second method on the same documents whose slope is 0.03 lower, with effects of its own."""
    repetitions, documents = full[TOKENS[0]].shape
    own = 0.03 + 0.01 * rng.standard_normal((repetitions, 1)) + 0.01 * rng.standard_normal(documents)
    return {tokens: values - own * math.log10(tokens / TOKENS[0]) * tokens_d for tokens, values in full.items()}


@pytest.mark.slow
def test_the_interval_of_the_turning_point_covers_the_truth():
    rng = np.random.default_rng(3)
    bottom = 1.0  # tenfolds above the first rung
    covered, found = [], None
    for _ in range(100):
        losses, tokens_d = ladder(rng, curve=lambda x: 3 + 0.3 * (x - bottom) ** 2, spread=0.1)
        found = turning_point(losses, tokens_d, n_resamples=200)
        covered.append((found.lower or 0) <= TOKENS[0] * 10**bottom <= (found.upper or math.inf))
    assert np.mean(covered) >= 0.9
    assert found.tokens == pytest.approx(TOKENS[0] * 10, rel=0.2)
