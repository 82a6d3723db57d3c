"""Domain terms against the formula written out and a planted domain; rank statistics against scipy and numpy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from peftodyssey import assets
from peftodyssey.corpora import words
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


def in_documents(counts, documents=20):
    """A text of equally long documents, each with a share of every word's occurrences."""
    return [
        {word: (count + number) // documents for word, count in counts.items() if (count + number) // documents}
        for number in range(documents)
    ]


def test_dispersion_is_the_variance_of_a_ratio_over_documents():
    """Cochran 1977, equation 6.9, written out with NumPy; at least 1, which independent occurrences have."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 400, 60)
    bursts = np.where(rng.random(60) < 0.2, rng.integers(5, 30, 60), 0)
    documents = [{"burst": int(b), "rest": int(n)} for b, n in zip(bursts, sizes, strict=True)]
    text = terms.word_counts([{word: count for word, count in own.items() if count} for own in documents])
    total = sizes + bursts
    rate = bursts.sum() / total.sum()
    variance = 60 / 59 * ((bursts - rate * total) ** 2).sum() / total.sum() ** 2
    assert text.dispersion["burst"] == pytest.approx(variance / (rate / total.sum()))
    assert text.dispersion["burst"] > 5
    assert text.documents["burst"] == (bursts > 0).sum()
    even = terms.word_counts([{"even": 3, "rest": 97}] * 10)
    assert even.dispersion["even"] == 1


def test_equal_texts_have_no_terms_and_an_empty_one_tells_nothing():
    text = terms.word_counts(in_documents({"king": 400, "river": 200, "the": 5000}))
    nothing = terms.word_counts([])
    assert terms.domain_terms(text, text) == []
    assert terms.domain_terms(text, nothing) == []
    assert terms.domain_terms(nothing, text) == []


def bursty(rng, documents, topics=40, words=3000):
    """Documents that each repeat the words of one topic beside words of all: no two halves differ but by chance."""
    chance = 1 / np.arange(1, words + 1)
    texts = []
    for _ in range(documents):
        counts = rng.multinomial(250, chance / chance.sum())
        counts[500 + 10 * rng.integers(topics) + np.arange(10)] += rng.poisson(4, 10)
        texts.append({f"word{n}": int(count) for n, count in enumerate(counts) if count})
    return texts


def test_halves_of_one_bursty_text_have_almost_no_terms():
    """Without dispersion and false discovery rate these halves have a hundred."""
    rng, found, naive = np.random.default_rng(0), 0, 0
    for _ in range(5):
        halves = [terms.word_counts(bursty(rng, 200)) for _ in range(2)]
        found += len(terms.domain_terms(*halves))
        known = sorted(set(halves[0].counts) & set(halves[1].counts))
        _, z = terms.log_odds(*([half.counts[word] for word in known] for half in halves))
        naive += int((z >= 1.96).sum())
    assert naive > 50 * 5
    assert found <= 0.02 * naive


def test_halves_of_a_real_text_give_at_most_a_twentieth_of_the_terms_of_two_texts():
    def documents(name, split):
        rows = assets.open_corpus(name, split).read().decode("utf-8").splitlines()
        return [words.counts([json.loads(row)["text"]]) for row in rows]

    sample, domain = documents("arxiv_cs.CL", "train")[:400], documents("arxiv_cs.CL", "train")[:200]
    general = documents("wiki_general", "test")
    of_two = terms.domain_terms(terms.word_counts(domain), terms.word_counts(general))
    of_halves = terms.domain_terms(terms.word_counts(sample[::2]), terms.word_counts(sample[1::2]))
    assert len(of_two) > 60
    assert len(of_halves) <= len(of_two) / 20
    assert {"neural", "models"} <= {term.word for term in of_two}


def test_a_planted_term_is_found_and_function_words_short_ones_and_those_of_few_documents_are_not():
    rest = {f"word{n}": 100 for n in range(100)}
    domain = in_documents({**rest, "perplexity": 300, "the": 900, "xy": 300})
    domain[0]["burst"] = 300  # all in one document
    general = in_documents({**{word: count // 4 for word, count in rest.items()}, "perplexity": 1, "the": 5})
    [term] = terms.domain_terms(terms.word_counts(domain), terms.word_counts(general))
    assert (term.word, term.domain_count, term.domain_documents, term.general_count) == ("perplexity", 300, 20, 1)
    assert term.z > 3


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
