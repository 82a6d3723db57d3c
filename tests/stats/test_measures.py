"""Degradation, ledger and selection: closed forms, brute force, and shares that add up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from peftodyssey.measures.tokens.compute import by_group, by_token
from peftodyssey.stats.degradation import bits_per_byte, compare, perplexity

CLASSES = ("newline", "space", "digit", "word")
NATS = st.one_of(st.floats(-20, 20, width=32), st.just(float("nan")))
COLUMN = hnp.arrays(np.float32, st.integers(0, 200), elements=NATS)


def _columns(n=400, documents=40, seed=0):
    rng = np.random.default_rng(seed)
    before = rng.gamma(2, 1.5, n).astype(np.float32)
    return before, before + np.float32(0.25), np.repeat(np.arange(documents), n // documents), rng.integers(1, 6, n)


def test_compare_states_the_means_of_both_columns():
    before, after, document, token_bytes = _columns()
    got = compare(before, after, document, token_bytes)
    assert got.nll_before == pytest.approx(before.mean(dtype=np.float64), rel=1e-12)
    assert got.ppl_after == pytest.approx(np.exp(after.mean(dtype=np.float64)), rel=1e-12)
    assert got.delta_nll == pytest.approx(0.25, abs=1e-6)
    assert got.delta_nll == pytest.approx(got.nll_after - got.nll_before, abs=1e-12)
    assert got.delta_lo <= got.delta_nll <= got.delta_hi < 0.2501
    assert got.bpb_before == pytest.approx(before.sum(dtype=np.float64) / math.log(2) / token_bytes.sum(), rel=1e-12)
    assert (got.documents, got.tokens, got.note) == (40, 400, "")


def test_compare_leaves_unscored_rows_out_of_both_columns():
    before, after, document, token_bytes = _columns()
    holes = before.copy()
    holes[::10] = np.nan
    kept = ~np.isnan(holes)
    got = compare(holes, after, document, token_bytes)
    assert got == compare(before[kept], after[kept], document[kept], token_bytes[kept])
    assert got.tokens == 360
    nothing = compare(np.full(400, np.nan), after, document, token_bytes)
    assert nothing.nll_before is None
    assert (nothing.delta_lo, nothing.tokens, nothing.note) == (None, 0, "no tokens scored")


def test_perplexity_and_bits_per_byte_at_their_limits():
    assert perplexity(0.0) == 1
    assert perplexity(1e4) == math.inf
    assert math.isnan(perplexity(math.nan))
    assert bits_per_byte(np.full(4, math.log(2)), 8) == pytest.approx(0.5)
    assert math.isnan(bits_per_byte(np.zeros(0), 0))


@given(COLUMN, st.data())
def test_group_sums_add_up_to_the_whole_change(before, data):
    after = data.draw(hnp.arrays(np.float32, len(before), elements=NATS))
    label = data.draw(hnp.arrays(np.int8, len(before), elements=st.integers(0, 3)))
    rows = by_group(before, after, label, CLASSES)
    scored = after.astype(np.float64) - before
    scored = scored[~np.isnan(scored)]
    whole = math.fsum(scored)
    assert math.fsum(row.sum_nats for row in rows) == pytest.approx(whole, rel=1e-12, abs=1e-14 * np.abs(scored).sum())
    assert sum(row.tokens for row in rows) == len(scored)
    assert [row.name for row in rows] == list(CLASSES)
    if abs(whole) > 1e-3:
        assert math.fsum(row.share for row in rows) == pytest.approx(1, rel=1e-9)
    for row in rows:
        if row.tokens:
            assert row.mean_delta == pytest.approx(row.mean_after - row.mean_before, abs=1e-9)


@given(COLUMN, st.data())
def test_token_sums_add_up_and_count_every_scored_row(after, data):
    before = data.draw(hnp.arrays(np.float32, len(after), elements=NATS))
    token = data.draw(hnp.arrays(np.int32, len(after), elements=st.integers(0, 9)))
    rows = by_token(before, after, token)
    delta = after.astype(np.float64) - before
    delta = delta[~np.isnan(delta)]
    assert math.fsum(row.sum_nats for row in rows) == pytest.approx(math.fsum(delta), abs=1e-9)
    assert sum(row.count for row in rows) == len(delta)
    assert [row.token for row in rows] == sorted({row.token for row in rows})


def test_token_rows_state_means_before_and_after():
    row = by_token(np.array([1.0, 3.0, 9.0]), np.array([2.0, 6.0, 9.0]), np.array([5, 5, 7]))[0]
    assert (row.token, row.count, row.mean_before, row.mean_after, row.sum_nats) == (5, 2, 2.0, 4.0, 4.0)
