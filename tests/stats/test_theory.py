"""The measuring code finds in the two-layer linear network what is known to be there, and nothing in a ladder of equal
copies.
"""

import numpy as np
import pytest

from benchmarks.theory import VALUES, WIDTH, descend, forgetting, learned, loss, pretrain, rises, task
from peftodyssey.stats.cluster_resampling import ClusterSums, resampled_means
from peftodyssey.stats.contrast import LESS, MORE
from peftodyssey.stats.ladder import Ladder, contrast_of, describe, lowest_rungs, slope_weights

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


def ladder(of_rungs):
    """Values [repetitions, inputs] by steps as a ladder whose clusters are the inputs."""
    steps = tuple(sorted(of_rungs))
    columns = np.concatenate([of_rungs[count] for count in steps]).T
    means = resampled_means(ClusterSums(columns, TOKENS_D), [0])
    return Ladder(steps, means.reshape(len(means), len(steps), -1).transpose(0, 2, 1), len(TOKENS_D))


def steps_of(of_rungs):
    """The steps from rung to rung."""
    return describe([ladder(of_rungs)])[0].steps


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
    steps = steps_of({rung.steps: noisy(rung, gamma) for rung in rungs})
    assert all(step.result.estimate > 0 for step in steps)
    assert sum(step.result.verdict == MORE for step in steps) >= 3
    assert not any(step.result.verdict == LESS for step in steps)


def test_fine_tuning_on_other_directions_costs_more_and_a_pull_to_the_start_less(rungs):
    plain, held = ({rung.steps: tuned(rung, pull) for rung in rungs} for pull in (0.0, 1.0))
    for of_rungs in (plain, {steps: plain[steps] - held[steps] for steps in plain}):
        given = ladder(of_rungs)
        assert contrast_of(given, slope_weights(given.tokens)).estimate > 0
        assert all(step.result.estimate > 0 for step in describe([given])[0].steps)
    assert all(held[steps].mean() < plain[steps].mean() for steps in plain)
    gained = [[forgetting(rung, TARGET, OTHER, pull=pull)[1] for rung in rungs] for pull in (0.0, 1.0)]
    assert (np.array(gained[1]) < np.array(gained[0])).all()  # the price of the pull


def test_more_noise_turns_the_loss_up_earlier_and_a_pull_later(rungs):
    noisy_losses = [ladder(with_base(rungs, lambda rung, g=gamma: noisy(rung, g))) for gamma in (0.05, 0.1, 0.2)]
    lowest = [lowest_rungs(losses) for losses in noisy_losses]
    assert lowest[0][0] > lowest[1][0] > lowest[2][0]
    assert lowest[2] == (STEPS[0],)
    means = [int(losses.values[0].mean(0).argmin()) for losses in noisy_losses]
    assert means[0] > means[1] > means[2] == 0
    plain, held = (
        ladder(with_base(rungs, lambda rung, p=pull: tuned(rung, p))).values[0].mean(0).argmin() for pull in (0.0, 1.0)
    )
    assert plain < held


def test_the_base_itself_never_turns_up(rungs):
    base = {rung.steps: by_input(rung.w1, rung.w2)[None] for rung in rungs}
    assert lowest_rungs(ladder(base))[-1] == STEPS[-1]
    assert [loss(rung.w1, rung.w2, TARGET) for rung in rungs] == sorted(
        (loss(r.w1, r.w2, TARGET) for r in rungs), reverse=True
    )


def test_a_ladder_of_equal_copies_has_no_slope(rungs):
    """Fresh noise on every rung, so that the rises differ; 95 % intervals, of which about one in twenty misses."""
    called, rejected = [], []
    for seed in range(150):
        draw = np.random.default_rng(seed)
        (found,) = describe([ladder({steps: noisy_anew(rungs[3], draw) for steps in STEPS})])
        rejected.append(found.slope is None)
        called.append(found.slope is not None and found.slope.verdict in (LESS, MORE))
    assert np.mean(called) <= 0.1
    assert np.mean(rejected) <= 0.1


def noisy_anew(rung, draw, pairs=5):
    found = []
    for _ in range(pairs):
        e1, e2 = 0.1 * draw.standard_normal((2, WIDTH, WIDTH))
        found.append(
            np.mean([by_input(rung.w1 + s * e1, rung.w2 + s * e2) for s in (1, -1)], 0) - by_input(rung.w1, rung.w2)
        )
    return np.stack(found)
