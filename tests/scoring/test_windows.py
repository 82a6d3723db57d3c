"""Windows against lm-eval's own, and every token exactly once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows

from peftodyssey.errors import InputError
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.batches import batch, num_rows_that_fit, rows_of_windows
from peftodyssey.scoring.windows import corpus_windows, windows

SIZES = st.tuples(st.integers(0, 200), st.integers(1, 40), st.data())


@given(SIZES)
def test_windows_are_those_of_lm_eval(sizes):
    n, context, data = sizes
    stride = data.draw(st.integers(1, context))
    tokens = list(range(n))
    sequence = [-1, *tokens]
    ours = [(sequence[b:e], tokens[first:e]) for b, e, first in windows(n, context, stride)]
    assert ours == list(get_rolling_token_windows(tokens, -1, context, context - stride + 1))


@given(SIZES)
def test_every_token_is_scored_once_with_the_promised_context(sizes):
    n, context, data = sizes
    stride = data.draw(st.integers(1, context))
    scored = []
    for begin, end, first in windows(n, context, stride):
        assert 0 <= begin <= first < end
        assert end - begin <= context
        assert begin == 0 or end - begin == context
        scored += range(first, end)
    assert scored == list(range(n))


@pytest.mark.parametrize("stride", [0, -3, 9])
def test_a_stride_outside_the_context_is_refused(stride):
    with pytest.raises(InputError, match="stride"):
        windows(20, 8, stride)


def test_bos_without_a_prefix_token_is_refused():
    with pytest.raises(InputError, match="neither a bos nor an eos"):
        corpus_windows(np.arange(4), np.array([0, 4]), _point(4, 2), None)


def _point(context, stride, first_token="bos", mode="documents"):
    return ScoreSpec(context=context, stride=stride, tokens=None, first_token=first_token, mode=mode)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=8),
    context=st.integers(1, 12),
    first_token=st.sampled_from(["bos", "skip"]),
    mode=st.sampled_from(["documents", "stream"]),
    layout=st.sampled_from(["padded", "packed"]),
    batch_tokens=st.integers(1, 60),
    data=st.data(),
)
def test_rectangles_hold_every_prediction_once_with_its_own_document_before_it(
    lengths, context, first_token, mode, layout, batch_tokens, data
):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token = np.arange(100, 100 + starts[-1])
    point = _point(context, data.draw(st.integers(1, context)), first_token, mode)
    table = corpus_windows(token, starts, point, 7)
    texts = starts if mode == "documents" else np.array([0, len(token)])
    rows = rows_of_windows(table, layout)
    scored = []
    while rows:
        count = num_rows_that_fit(table, rows, batch_tokens)
        rectangle = batch(table, rows[:count])
        assert count == 1 or rectangle.input_ids_bt.size <= batch_tokens
        _check_rectangle(rectangle, token, texts, context)
        scored += rectangle.index_row.tolist()
        rows = rows[count:]
    skipped = {int(a) for a, b in itertools.pairwise(texts) if b > a} if first_token == "skip" else set()
    assert sorted(scored) == [row for row in range(len(token)) if row not in skipped]


def _check_rectangle(rectangle, token, texts, context):
    flat = rectangle.input_ids_bt.ravel()
    for at_flat, target, row in zip(rectangle.position, rectangle.target, rectangle.index_row, strict=True):
        assert target == token[row]
        at = int(rectangle.position_ids_bt.ravel()[at_flat])
        assert at < context
        text = texts[np.searchsorted(texts, row, side="right") - 1]
        before = [7, *token[text:row]] if row - at == text else token[row - at - 1 : row]
        assert flat[at_flat - at : at_flat + 1].tolist() == list(before)
        assert len(set(rectangle.segment_ids_bt.ravel()[at_flat - at : at_flat + 1])) == 1
