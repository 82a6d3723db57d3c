"""The measuring code finds in the two-layer linear network what is known to be there, and nothing in a ladder of equal
copies.
"""

import math

import numpy as np
import pytest

from benchmarks.theory import VALUES, WIDTH, descend, forgetting, learned, loss, pretrain, rises, task
from peftodyssey.measures.sensitivity.compute import slope, slope_difference, turning_point

STEPS = (200, 400, 800, 1600, 3200, 6400)
TARGET, OTHER = task(VALUES, 1), task(VALUES, 2)
INPUTS = np.random.default_rng(5).standard_normal(
    (WIDTH, 60)
)  # the documents: their mean loss is an estimate of the whitened one
TOKENS_D = np.ones(60)


@pytest.fixture(scope="module")
def rungs():
    return pretrain(TARGET, STEPS)


def by_input(w1, w2):
    """Loss of the pretraining task at each input."""
    return 0.5 * np.square((w2 @ w1 - TARGET) @ INPUTS).sum(0)


def noisy(rung, gamma, pairs=5):
    """Rise by pair and input under noise of both layers, the same draws for every rung."""
    found = []
    for pair in range(pairs):
        draw = np.random.default_rng(pair)
        e1, e2 = gamma * draw.standard_normal((WIDTH, WIDTH)), gamma * draw.standard_normal((WIDTH, WIDTH))
        both = [by_input(rung.w1 + sign * e1, rung.w2 + sign * e2) for sign in (1, -1)]
        found.append(np.mean(both, 0) - by_input(rung.w1, rung.w2))
    return np.stack(found)


def tuned(rung, pull=0.0):
    """Forgetting by input, one repetition, of fine-tuning on the other task."""
    return (by_input(*descend(rung.w1, rung.w2, OTHER, 20, pull=pull)) - by_input(rung.w1, rung.w2))[None]


def with_base(rungs, of_rung):
    return {rung.steps: of_rung(rung) + by_input(rung.w1, rung.w2) for rung in rungs}


def test_directions_are_learned_one_after_another_the_largest_first():
    counts = []
    for rung in pretrain(TARGET, (50, 100, *STEPS)):
        shares = learned(rung, TARGET)
        assert (np.diff(shares) < 1e-3).all()
        counts.append(int((shares > 0.5).sum()))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] >= 6


def test_the_rise_under_noise_is_that_of_the_closed_form(rungs):
    """Half the expected square of W2 E1 + E2 W1 and of E2 E1: what is odd in the noise cancels within a pair."""
    for rung in rungs:
        weights = np.square(rung.w1).sum() + np.square(rung.w2).sum()
        expected = 0.5 * (0.1**2 * WIDTH * weights + 0.1**4 * WIDTH**3)
        found = rises(rung, TARGET, 0.1, 400)
        assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 20)


@pytest.mark.parametrize("gamma", [0.03, 0.1, 0.3])
def test_noise_costs_more_the_longer_the_pretraining(rungs, gamma):
    found = slope({rung.steps: noisy(rung, gamma) for rung in rungs}, TOKENS_D)
    assert found.lower > 0
    means = [noisy(rung, gamma).mean() for rung in rungs]
    assert means == sorted(means)


def test_fine_tuning_on_other_directions_costs_more_and_a_pull_to_the_start_less(rungs):
    plain, held = ({rung.steps: tuned(rung, pull) for rung in rungs} for pull in (0.0, 1.0))
    assert slope(plain, TOKENS_D).lower > 0
    assert slope_difference(plain, held, TOKENS_D).lower > 0
    assert all(held[steps].mean() < plain[steps].mean() for steps in plain)
    gained = [[forgetting(rung, TARGET, OTHER, pull=pull)[1] for rung in rungs] for pull in (0.0, 1.0)]
    assert (np.array(gained[1]) < np.array(gained[0])).all()  # the price of the pull


def test_more_noise_turns_the_loss_up_earlier_and_a_pull_later(rungs):
    turns = [turning_point(with_base(rungs, lambda rung, g=gamma: noisy(rung, g)), TOKENS_D) for gamma in (0.05, 0.1)]
    assert turns[1].tokens < turns[0].tokens
    plain, held = (
        turning_point(with_base(rungs, lambda rung, p=pull: tuned(rung, p)), TOKENS_D) for pull in (0.0, 1.0)
    )
    assert plain.tokens < (held.tokens or math.inf)
    assert plain.share > held.share or held.tokens is not None


def test_the_base_itself_never_turns_up(rungs):
    base = turning_point({rung.steps: by_input(rung.w1, rung.w2)[None] for rung in rungs}, TOKENS_D)
    assert (base.tokens, base.share) == (None, 0.0)
    assert [loss(rung.w1, rung.w2, TARGET) for rung in rungs] == sorted(
        (loss(r.w1, r.w2, TARGET) for r in rungs), reverse=True
    )


def test_a_ladder_of_equal_copies_has_no_slope(rungs):
    """Fresh noise on every rung, so that the rises differ; 95 % intervals, of which about one in twenty misses."""
    covered = []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        copies = {steps: noisy_anew(rungs[3], draw) for steps in STEPS}
        found = slope(copies, TOKENS_D)
        covered.append(found.lower <= 0 <= found.upper)
    assert np.mean(covered) >= 0.91


def noisy_anew(rung, draw, pairs=5):
    found = []
    for _ in range(pairs):
        e1, e2 = 0.1 * draw.standard_normal((2, WIDTH, WIDTH))
        found.append(
            np.mean([by_input(rung.w1 + s * e1, rung.w2 + s * e2) for s in (1, -1)], 0) - by_input(rung.w1, rung.w2)
        )
    return np.stack(found)
