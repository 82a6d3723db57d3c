"""Packed sequences under sft: whole examples, only answers trained, and errors that name examples without one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.indexes import hand_index

from peftodyssey.corpora import packing
from peftodyssey.corpora.packing import SpecialTokens
from peftodyssey.corpora.token_classes import SPECIAL
from peftodyssey.errors import CorpusError


def packed(documents, trained, eos=2, **options):
    return packing.pack(
        hand_index(documents, trained),
        SpecialTokens(1, eos),
        **{"seq_len": 8, "seed": 0, "objective": "sft", **options},
    )


def test_completions_and_their_end_by_hand():
    sequences = packed([[11, 12, 13], [21, 22]], [[0, 0, 1], [0, 1]])
    assert sequences.input_ids.tolist() == [[1, 11, 12, 13, 1, 21, 22, 0]]
    assert sequences.labels.tolist() == [[-100, -100, 13, 2, -100, 22, 2, -100]]
    assert sequences.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert sequences.segment_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2]]
    assert sequences.trained_tokens == 4
    assert (
        sequences.input_ids.dtype
        == sequences.labels.dtype
        == sequences.position_ids.dtype
        == sequences.segment_ids.dtype
        == np.int32
    )


def test_an_end_that_the_text_has_is_not_written_twice():
    sequences = packed([[1, 11, 12, 2]], [[0, 0, 1, 1]], seq_len=3)
    assert sequences.input_ids.tolist() == [[1, 11, 12]]
    assert sequences.labels.tolist() == [[-100, 12, 2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=40), st.integers(12, 30))
def test_every_example_lies_whole_in_one_sequence_and_is_trained_once(parts, seq_len):
    documents = [[100 * n + i + 3 for i in range(prompt + answer)] for n, (prompt, answer) in enumerate(parts)]
    sequences = packed(documents, [[0] * prompt + [1] * answer for prompt, answer in parts], seq_len=seq_len)
    unpacked = []
    for ids, labels, positions, segments in zip(
        sequences.input_ids, sequences.labels, sequences.position_ids, sequences.segment_ids, strict=True
    ):
        for segment in np.unique(segments):
            inside = segments == segment
            if (labels[inside] == -100).all():
                assert not ids[inside].any(), "free positions are padding"
                continue
            assert positions[inside].tolist() == list(range(inside.sum()))
            document = ids[inside][1:].tolist()
            prompt, _ = parts[(document[0] - 3) // 100]
            assert labels[inside].tolist() == [-100] * prompt + document[prompt:] + [2]
            unpacked.append(document)
    assert sorted(unpacked) == sorted(documents)
    fullest = sorted((p + a + 1 for p, a in parts), reverse=True)
    used = [
        int((row != row.max()).sum()) if row.max() and not ids[row == row.max()].any() else seq_len
        for row, ids in zip(sequences.segment_ids, sequences.input_ids, strict=True)
    ]
    assert sum(sorted(used)[:2]) > seq_len or len(used) == 1, "two sequences that fit one were not merged"
    assert max(used) >= fullest[0]


def test_the_seed_does_not_decide_which_examples_share_a_sequence():
    one, two = (
        packed([[9] * n for n in range(2, 7)], [[1] * n for n in range(2, 7)], seed=seed).input_ids for seed in (0, 5)
    )
    assert one.tolist() == two.tolist()


LONG = ([[11, 12], [21] * 9 + [22] * 3, [31] * 20 + [32]], [[0, 1], [0] * 9 + [1] * 3, [0] * 20 + [1]])


def test_too_long_examples_are_named_truncated_or_dropped():
    with pytest.raises(
        CorpusError,
        match=r"2 of 3 examples have more tokens than train.seq_len, 11.*example 1, example 2\n.*22 or more.*66.7%",
    ):
        packed(*LONG, seq_len=11)
    assert packed(*LONG, seq_len=11, too_long="drop").input_ids.tolist() == [[1, 11, 12, *[0] * 8]]
    with pytest.raises(
        CorpusError,
        match=r"1 of 3 examples have prompts that leave nothing of the answer within 11 tokens: example 2\n",
    ):
        packed(*LONG, seq_len=11, too_long="truncate")
    shortened = [part[:2] for part in LONG]
    assert packed(*shortened, seq_len=11, too_long="truncate").labels.tolist()[0] == [*[-100] * 9, 22, 22]
    with pytest.raises(CorpusError, match="not one of 1 examples fits a sequence of 11"):
        packed([LONG[0][2]], [LONG[1][2]], seq_len=11, too_long="drop")


def test_examples_that_train_nothing_or_do_not_end_are_named():
    with pytest.raises(CorpusError, match=r"1 of 2 examples have no trainable token: example 1\n.*--show 3"):
        packed([[11, 12], [21, 22]], [[0, 1], [0, 0]])
    with pytest.raises(
        CorpusError, match=r"2 of 2 examples have no end-of-text token: example 0, example 1\n.*eos_token"
    ):
        packed([[11, 12], [21, 22]], [[0, 1], [0, 1]], eos=None)


def test_a_rendered_conversation_must_train_an_end_token():
    index = hand_index([[5, 11, 6, 7], [5, 12, 6, 7]], [[0, 1, 1, 1], [0, 1, 1, 1]])
    special, options = SpecialTokens(None, None, from_template=True), {"seq_len": 3, "seed": 0, "objective": "sft"}
    with pytest.raises(
        CorpusError,
        match=r"2 of 2 examples have no end-of-text token at the end of the trained tokens: example 0.*\n.*generation",
    ):
        packing.pack(index, special, **options)
    index.token_class[[2, 6]] = SPECIAL
    assert packing.pack(index, special, **options).labels.tolist() == [[11, 6, 7], [12, 6, 7]]
    index.trained[[2, 6]] = False
    with pytest.raises(CorpusError, match="no end-of-text"):
        packing.pack(index, special, **options)
