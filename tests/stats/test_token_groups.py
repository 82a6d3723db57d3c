"""Attribution: every partition conserves the change, planted changes are found where they were planted."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peftodyssey.constants import TOKEN_CLASSES
from peftodyssey.corpora import token_classes as index_classes
from peftodyssey.measures.tokens import compute as token_breakdown
from peftodyssey.measures.tokens import groups as token_groups
from peftodyssey.measures.tokens.concentration import concentration, lorenz, without_worst
from peftodyssey.stats import bootstrap

NATS = st.one_of(st.floats(-20, 20, width=32), st.just(float("nan")))
COLUMN = hnp.arrays(np.float32, st.integers(1, 200), elements=NATS)
CHANGES = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-9, 9, width=32))


def partitions(n, before, seed):
    rng = np.random.default_rng(seed)
    token = rng.integers(0, 30, n)
    return [
        token_groups.by_class(rng.integers(0, len(index_classes.TOKEN_CLASSES), n), rng.random(n) < 0.3),
        token_groups.by_position(rng.integers(0, 5000, n)),
        token_groups.by_frequency(token, rng.integers(0, 3, 25) * rng.integers(0, 10**5, 25)),
        token_groups.by_surprisal(before),
    ]


@given(COLUMN, st.integers(0, 99), st.data())
def test_shares_add_up_to_the_whole_change_on_any_subset(before, seed, data):
    """Law 7."""
    after = data.draw(hnp.arrays(np.float32, len(before), elements=NATS))
    subset = data.draw(hnp.arrays(bool, len(before)))
    delta = (after.astype(np.float64) - before)[subset]
    scored = delta[~np.isnan(delta)]
    whole = math.fsum(scored)
    for part in partitions(len(before), before, seed):
        rows = token_breakdown.by_group(before[subset], after[subset], part.label[subset], part.names)
        assert sum(row.tokens for row in rows) == len(scored)
        total = math.fsum(row.sum_nats for row in rows)
        assert total == pytest.approx(whole, rel=1e-9, abs=1e-12 * max(1.0, np.abs(scored).sum()))
        if abs(whole) > 1e-6 * np.abs(scored).sum():
            assert math.fsum(row.share for row in rows) == pytest.approx(1, rel=1e-9)


def test_every_class_of_an_index_has_its_place():
    assert set(token_groups.CLASSES) == {*TOKEN_CLASSES, "domain_term"}
    labels = token_groups.by_class(np.arange(len(TOKEN_CLASSES))).label
    assert [token_groups.CLASSES[label] for label in labels] == list(TOKEN_CLASSES)


def test_only_words_that_are_no_function_words_are_domain_terms():
    part = token_groups.by_class(np.arange(len(TOKEN_CLASSES)), np.ones(len(TOKEN_CLASSES), bool))
    terms = [name for name, label in zip(TOKEN_CLASSES, part.label, strict=True) if part.names[label] == "domain_term"]
    assert terms == ["word_start", "continuation"]


def test_a_nat_on_every_newline_is_paid_by_newlines_to_the_last_digit():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, len(index_classes.TOKEN_CLASSES), 5000)
    before = (rng.integers(0, 1 << 14, 5000) / 1024).astype(np.float32)  # so that adding 1 does not round
    after = before + (kind == index_classes.NEWLINE).astype(np.float32)
    part = token_groups.by_class(kind)
    rows = {row.name: row for row in token_breakdown.by_group(before, after, part.label, part.names)}
    newline = rows.pop("newline")
    assert (newline.sum_nats, newline.share, newline.mean_delta) == (newline.tokens, 1.0, 1.0)
    assert newline.mean_after == pytest.approx(newline.mean_before + 1, rel=1e-15)
    assert {(row.sum_nats, row.share) for row in rows.values() if row.tokens} == {(0.0, 0.0)}
    assert math.isnan(rows["domain_term"].mean_delta)


@pytest.mark.parametrize(
    ("position", "name"),
    [
        (0, "0"),
        (1, "1 to 3"),
        (3, "1 to 3"),
        (4, "4 to 15"),
        (255, "64 to 255"),
        (256, "256 to 1023"),
        (9999, "1024 on"),
    ],
)
def test_places_in_a_document_fall_in_the_bin_that_names_them(position, name):
    part = token_groups.by_position(np.array([position]))
    assert part.names[part.label[0]] == name


@pytest.mark.parametrize(
    ("count", "name"),
    [
        (0, "not in the sample"),
        (9, "under 10 in a million"),
        (10, "10 to 100"),
        (99, "10 to 100"),
        (9_999, "1,000 to 10,000"),
        (10_000, "10,000 in a million on"),
    ],
)
def test_frequencies_are_of_a_million_tokens_of_the_sample(count, name):
    counts = np.array([count, 1_000_000 - count])
    part = token_groups.by_frequency(np.array([0]), counts)
    assert part.names[part.label[0]] == name


def test_a_token_beyond_the_sample_is_not_in_it():
    part = token_groups.by_frequency(np.array([7]), np.array([1, 2]))
    assert part.names[part.label[0]] == "not in the sample"


@given(COLUMN)
def test_deciles_hold_as_many_scored_tokens_and_are_in_order(before):
    part = token_groups.by_surprisal(before)
    scored = ~np.isnan(before)
    sizes = np.bincount(part.label[scored], minlength=10)
    assert scored.sum() < 10 or sizes.max() - sizes.min() <= 1
    means = [before[scored & (part.label == d)] for d in range(10)]
    filled = [m for m in means if len(m)]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(filled))


@given(CHANGES)
def test_concentration_is_that_of_a_brute_force_count(change):
    found, rise = concentration(change), np.maximum(change, 0)
    assert (found.rise_nats, found.fall_nats) == (math.fsum(rise), math.fsum(np.minimum(change, 0)))
    if not rise.sum():
        assert math.isnan(found.share_for_50pct)
        assert lorenz(change) == []
        return
    n, largest = len(rise), np.sort(rise)[::-1]
    for share, part in ((found.share_for_50pct, 0.5), (found.share_for_90pct, 0.9)):
        k = round(share * n)
        assert largest[:k].sum() >= part * rise.sum() * (1 - 1e-12)
        assert largest[: k - 1].sum() < part * rise.sum() * (1 + 1e-12)
    differences = np.abs(rise[:, None] - rise).mean()
    assert found.gini == pytest.approx(differences / (2 * rise.mean()), abs=1e-9)
    curve = lorenz(change)
    assert curve[0][0] == 1 / n
    assert curve[-1] == (1.0, 1.0)
    assert all(b >= a for (_, a), (_, b) in itertools.pairwise(curve))


def test_concentration_at_its_ends():
    even, one = concentration(np.ones(10)), concentration(np.array([5.0, *[-1.0] * 99]))
    assert (even.share_for_50pct, even.share_for_90pct, even.gini) == (0.5, 0.9, pytest.approx(0, abs=1e-12))
    assert (one.share_for_50pct, one.share_for_90pct, one.gini, one.fall_nats) == (0.01, 0.01, pytest.approx(0.99), -99)
    assert concentration(np.zeros(0)).units == 0


def test_perplexity_without_the_worst_types_leaves_out_those_that_rose_most():
    tokens, before, after = np.array([2, 4, 1, 3]), np.array([2.0, 8.0, 3.0, 9.0]), np.array([6.0, 9.0, 1.0, 3.0])
    none, one, all_that_rose = without_worst(tokens, before, after, (0, 1, 9))
    assert (none.tokens, none.ppl_before, none.ppl_after) == (
        10,
        pytest.approx(math.exp(2.2)),
        pytest.approx(math.exp(1.9)),
    )
    assert (one.tokens, one.ppl_before, one.ppl_after) == (
        8,
        pytest.approx(math.exp(20 / 8)),
        pytest.approx(math.exp(13 / 8)),
    )
    assert (all_that_rose.tokens, all_that_rose.ppl_after) == (4, pytest.approx(math.e))
    assert math.isnan(without_worst(np.array([1]), np.array([1.0]), np.array([2.0]), (1,))[0].ppl_after)


def test_contributions_are_those_of_each_group_alone_and_add_up():
    rng = np.random.default_rng(1)
    document = np.repeat(np.arange(40), rng.integers(20, 90, 40))
    n = len(document)
    group, delta = rng.integers(0, 4, n), rng.normal(0.1, 1, n)
    delta[::17] = np.nan
    found = bootstrap.group_intervals(delta, document, group, 5)
    whole = bootstrap.paired_bootstrap(delta, document)
    assert sum(entry.estimate for entry in found) == pytest.approx(whole.estimate, rel=1e-12)
    for number, entry in enumerate(found[:4]):
        alone = bootstrap.paired_bootstrap(
            np.where(np.isnan(delta), np.nan, np.where(group == number, delta, 0)), document
        )
        assert (entry.estimate, entry.lower, entry.upper) == pytest.approx(
            (alone.estimate, alone.lower, alone.upper), abs=1e-12
        )
    assert (found[4].estimate, found[4].lower, found[4].note) == (0, None, "no tokens scored")


def test_a_group_that_few_documents_hold_has_no_interval():
    rng = np.random.default_rng(2)
    document = np.repeat(np.arange(60), 50)
    group = ((document < 29) & (np.arange(3000) % 50 == 0)).astype(int)
    common, rare = bootstrap.group_intervals(rng.normal(0, 1, 3000), document, group, 2)
    assert common.lower < common.estimate < common.upper
    assert (rare.lower, rare.upper, rare.note) == (None, None, "too few documents (29)")


def test_contributions_of_few_documents_have_no_interval():
    found = bootstrap.group_intervals(np.ones(4), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]), 2)
    assert [(entry.estimate, entry.lower, entry.note) for entry in found] == [
        (0.75, None, "too few documents (2)"),
        (0.25, None, "too few documents (2)"),
    ]
    assert (
        bootstrap.group_intervals(np.full(2, np.nan), np.zeros(2, int), np.zeros(2, int), 1)[0].note
        == "no tokens scored"
    )
