"""Accuracy of choices: hand-made answers, scipy's tests, and intervals that cover the truth."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from peftodyssey.measures.multiple_choice import compute as accuracy


def test_right_answers_by_hand_with_ties_and_unequal_numbers_of_choices():
    example = np.array([0, 0, 1, 1, 1, 2, 2])
    value = np.array([-1.0, -2.0, -3.0, -1.0, -1.0, -4.0, -4.0])
    answer = np.array([True, False, False, True, False, False, True])
    assert accuracy.correct_answers(value, example, answer).tolist() == [True, True, False]
    assert accuracy.chance_accuracy(example) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert accuracy.per_byte(np.array([-6.0, -4.0]), np.array([3, 1])).tolist() == [-2.0, -4.0]


def test_right_answers_are_those_of_a_plain_loop():
    draw = np.random.default_rng(0)
    counts = draw.integers(2, 6, 200)
    example = np.repeat(np.arange(200), counts)
    value = draw.integers(-4, 0, len(example)).astype(float)
    answer = np.concatenate([np.arange(c) == draw.integers(c) for c in counts])
    loop = [bool(answer[example == e][np.argmax(value[example == e])]) for e in range(200)]
    assert accuracy.correct_answers(value, example, answer).tolist() == loop


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (5, 9), (60, 41)])
def test_mcnemar_and_wilson_are_scipys(won, lost):
    assert accuracy.mcnemar_p_value(won, lost) == pytest.approx(
        stats.binomtest(min(won, lost), won + lost).pvalue if won + lost else 1.0
    )
    for right, n in ((0, 7), (3, 50), (50, 50)):
        interval = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert accuracy.wilson_interval(right, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(("won", "lost", "n"), [(20, 12, 100), (7, 0, 40), (1, 30, 300), (5, 5, 25)])
def test_tangos_ends_solve_the_score_equation_at_the_likeliest_shares(won, lost, n):
    """The nuisance share is found by scipy from the likelihood itself, not by the closed form."""
    for end, z in zip(accuracy.tango_interval(won, lost, n), (1.959964, -1.959964), strict=True):

        def unlikely(share, end=end):
            cells = share + end, share, 1 - 2 * share - end
            return -sum(k * math.log(max(p, 1e-300)) for k, p in zip((won, lost, n - won - lost), cells, strict=True))

        found = optimize.minimize_scalar(
            unlikely, bounds=(max(0.0, -end), (1 - end) / 2), method="bounded", options={"xatol": 1e-12}
        )
        deviation = math.sqrt(n * (2 * found.x + end * (1 - end)))
        assert (won - lost - n * end) / deviation == pytest.approx(z, abs=2e-3)


def test_nothing_changed_still_has_a_width_and_is_symmetric():
    lo, hi = accuracy.tango_interval(0, 0, 100)
    assert hi == pytest.approx(-lo) == pytest.approx(1.959964**2 / (100 + 1.959964**2), abs=1e-6)
    assert accuracy.tango_interval(9, 4, 80) == pytest.approx(
        tuple(-end for end in reversed(accuracy.tango_interval(4, 9, 80)))
    )


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.2, 0.05), (0.1, 0.02)])
def test_intervals_cover_the_truth_by_exact_enumeration(gain, loss):
    n, covered = 60, 0.0
    for won, lost in product(range(31), repeat=2):
        weight = (
            stats.multinomial.pmf([won, lost, n - won - lost], n, [gain, loss, 1 - gain - loss])
            if won + lost <= n
            else 0.0
        )
        if weight > 1e-9:
            lo, hi = accuracy.tango_interval(won, lost, n)
            covered += weight * (lo <= gain - loss <= hi)
    assert covered > 0.92


def test_compared_counts_pairs():
    before, after = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 1, 1], bool)
    found = accuracy.paired_accuracy(before, after)
    assert (found.examples, found.before, found.after, found.won, found.lost) == (5, 0.6, 0.8, 2, 1)
    assert found.delta == pytest.approx(0.2)
    assert found.lower < found.delta < found.upper
