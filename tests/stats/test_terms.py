"""Domain terms against the formula written out and a planted domain; rank statistics against scipy and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from peftodyssey.measures.tokens import terms


def test_log_odds_are_those_of_the_paper():
    """Monroe et al. 2008, equations 16, 19 and 22, for one word, written out."""
    domain, general = [30, 170], [5, 95]
    odds, z = terms.log_odds(domain, general)
    a_0 = terms.PRIOR_WORDS
    a = a_0 * 35 / 300
    left, right = math.log((30 + a) / (200 + a_0 - 30 - a)), math.log((5 + a) / (100 + a_0 - 5 - a))
    assert odds[0] == pytest.approx(left - right)
    assert z[0] == pytest.approx((left - right) / math.sqrt(1 / (30 + a) + 1 / (5 + a)))
    swapped, back = terms.log_odds(general, domain)
    assert (swapped, back) == (pytest.approx(-odds), pytest.approx(-z))


def test_equal_texts_have_no_terms_and_an_empty_one_tells_nothing():
    counts = {"king": 400, "river": 200, "the": 5000}
    assert terms.domain_terms(counts, counts) == []
    assert terms.domain_terms(counts, {}) == []
    assert terms.domain_terms({}, counts) == []


def test_chance_alone_makes_few_terms():
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, 3001)
    domain, general = (rng.multinomial(n, chance / chance.sum()) for n in (200_000, 20_000))
    words = [f"word{n}" for n in range(3000)]
    found = terms.domain_terms(dict(zip(words, domain, strict=True)), dict(zip(words, general, strict=True)))
    assert len(found) < 0.03 * 3000


def test_a_planted_term_is_found_and_function_words_and_short_ones_are_not():
    rest = {f"word{n}": 100 for n in range(100)}
    domain = {**rest, "perplexity": 300, "the": 900, "xy": 300, "rare": 2}
    general = {**{word: count // 4 for word, count in rest.items()}, "perplexity": 1, "the": 5}
    [term] = terms.domain_terms(domain, general)
    assert (term.word, term.domain_count, term.general_count) == ("perplexity", 300, 1)
    assert term.z > terms.MIN_Z


@given(hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(-1, 50_000)))
def test_rank_statistics_are_those_of_scipy_and_numpy(rank):
    scored = rank[rank >= 1]
    found = terms.rank_statistics(rank)
    assert found.tokens == len(scored)
    if not len(scored):
        assert math.isnan(found.median)
        return
    assert found.median == np.median(scored)
    assert found.trimmed_mean == pytest.approx(stats.trim_mean(scored, 0.1))
    for k in (1, 10, 100):
        assert found.recall[k] == pytest.approx(stats.percentileofscore(scored, k, kind="weak") / 100)
