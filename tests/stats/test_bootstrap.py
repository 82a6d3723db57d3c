"""Intervals against SciPy's bootstrap, a slow loop, and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.stats.bootstrap import (
    effective_documents,
    paired_bootstrap,
    ratio_interval,
)

RNG = np.random.default_rng


def _material(n=60, seed=0):
    rng = RNG(seed)
    lengths = np.round(np.exp(rng.normal(4, 0.5, n))).astype(int) + 1
    shift = rng.gamma(2.0, 0.05, n)
    document = np.repeat(np.arange(n), lengths)
    return shift[document] + 0.3 * rng.standard_t(4, len(document)), document


def test_studentised_is_that_of_a_plain_loop_over_the_tokens():
    delta, document = _material(60, seed=3)
    pieces = [delta[document == d] for d in range(60)]

    def ratio_and_error(drawn):
        tokens = np.concatenate(drawn)
        mean = tokens.mean()
        return mean, np.sqrt(sum((piece - mean).sum() ** 2 for piece in drawn)) / len(tokens)

    mean, error = ratio_and_error(pieces)
    rng = RNG(5)
    drawn = [ratio_and_error([pieces[i] for i in rng.integers(0, 60, 60)]) for _ in range(4000)]
    t = [(m - mean) / e for m, e in drawn]
    lo, hi = mean - np.quantile(t, [0.975, 0.025]) * error
    ours = paired_bootstrap(delta, document, n_resamples=40_000)
    assert (ours.lower, ours.upper) == (
        pytest.approx(lo, abs=0.06 * (hi - lo)),
        pytest.approx(hi, abs=0.06 * (hi - lo)),
    )
    assert ours.estimate == pytest.approx(delta.mean(), rel=1e-12)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    delta, document = _material()
    assert paired_bootstrap(delta, document, seed=4) == paired_bootstrap(delta, document, seed=4)
    assert paired_bootstrap(delta, document, seed=4) != paired_bootstrap(delta, document, seed=5)


def test_rows_that_are_not_scored_and_names_of_documents_do_not_matter():
    delta, document = _material()
    holes = np.insert(delta, [0, 7, len(delta)], np.nan)
    labels = np.insert(document, [0, 7, len(delta)], [0, 999, 59])
    assert paired_bootstrap(holes, labels * 3 + 11) == paired_bootstrap(delta, document)


def test_no_change_is_an_interval_of_no_width():
    document = np.repeat(np.arange(35), 10)
    for constant in (0.0, 0.25):
        found = paired_bootstrap(np.full(350, constant), document)
        assert (found.estimate, found.lower, found.upper) == (constant, constant, constant)


def test_too_few_documents_have_no_interval():
    delta, document = _material(29)
    found = paired_bootstrap(delta, document)
    assert (found.lower, found.upper, found.n_documents, found.note) == (None, None, 29, "too few documents (29)")
    assert found.estimate == pytest.approx(delta.mean())
    assert paired_bootstrap(delta, document, min_documents=29 // 2).lower is not None


def test_one_giant_among_many_is_too_few_effective_documents():
    document = np.concatenate([np.zeros(10_000, int), np.arange(1, 60)])
    found = paired_bootstrap(RNG(0).normal(size=len(document)), document)
    assert (found.lower, found.note) == (None, "too few documents (1.0 effective of 60)")


def test_thirty_equal_documents_are_enough():
    document = np.repeat(np.arange(30), 7)
    assert effective_documents(np.full(30, 7.0)) == pytest.approx(30)
    assert paired_bootstrap(RNG(0).normal(size=210), document).lower is not None


def test_nothing_scored_is_said():
    found = paired_bootstrap(np.full(3, np.nan), np.arange(3))
    assert np.isnan(found.estimate)
    assert (found.lower, found.note) == (None, "no tokens scored")


@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 50))
def test_interval_moves_and_scales_with_the_values(scale, shift, seed):
    delta, document = _material(60, seed)
    plain, moved = (
        paired_bootstrap(delta, document, n_resamples=200),
        paired_bootstrap(scale * delta + shift, document, n_resamples=200),
    )
    for name in ("estimate", "lower", "upper"):
        assert getattr(moved, name) == pytest.approx(scale * getattr(plain, name) + shift, abs=1e-9)
    assert plain.lower < plain.estimate < plain.upper


def _coverage(documents, spread, draw, trials):
    """Share of intervals that hold the true mean 0.1; lengths log-normal, token noise Student t(4) beside the
    documents' own.
    """
    rng, hits = RNG(documents), 0
    for _ in range(trials):
        weights = np.round(np.exp(rng.normal(5, spread, documents))).clip(20, None)
        means = draw(rng, documents) + 0.5 * rng.standard_t(4, documents) / np.sqrt(weights)
        found = ratio_interval(
            means * weights, weights, seed=int(rng.integers(1 << 30)), n_resamples=600, min_documents=1
        )
        hits += found.lower <= 0.1 <= found.upper
    return hits / trials


EFFECTS = {"gamma": lambda rng, n: rng.gamma(2.0, 0.05, n), "t4": lambda rng, n: 0.1 + 0.05 * rng.standard_t(4, n)}


@pytest.mark.slow
@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("spread", [0.5, 0.8])
@pytest.mark.parametrize(
    ("documents", "trials", "within"),
    [(12, 3000, (0.95, 0.99)), (24, 3000, (0.94, 0.98)), (49, 3000, (0.93, 0.97)), (300, 1200, (0.93, 0.97))],
)
def test_coverage_with_heavy_tails_weighted_by_tokens(documents, trials, within, spread, effects):
    """Below 30 documents the report gives no interval; those that there would be hold the truth more often than they
    say.
    """
    found, slack = _coverage(documents, spread, EFFECTS[effects], trials), 2 * (0.95 * 0.05 / trials) ** 0.5
    assert within[0] - slack <= found <= within[1] + slack
