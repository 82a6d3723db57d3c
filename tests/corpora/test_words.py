"""Words of a text, and that every tokenizer's tokens stand in the same ones."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.corpora import words


def spans(*ends):
    return np.array([0, *ends[:-1]]), np.array(ends)


def test_words_are_runs_of_letters_digits_and_inner_apostrophes():
    counted = words.counts(["The king's army, the KING’s\narmies of 1848 and C3PO; 'quoted' naïve."])
    assert counted == {
        "the": 2,
        "king's": 1,
        "army": 1,
        "king’s": 1,
        "armies": 1,
        "of": 1,
        "and": 1,
        "c3po": 1,
        "quoted": 1,
        "naïve": 1,
    }


def test_tokens_stand_in_the_word_of_their_first_letter():
    text = "An adapter's 12\n(Rank)"
    #       An| adap|ter|'s| 12|\n|(R|ank|)
    starts, ends = spans(2, 7, 10, 12, 15, 16, 18, 21, 22)
    assert words.of_tokens(text, starts, ends) == [
        "an",
        "adapter's",
        "adapter's",
        "adapter's",
        "",
        "",
        "rank",
        "rank",
        "",
    ]
    assert words.of_tokens("12 .", *spans(2, 4)) == ["", ""]
    assert words.of_tokens("", np.zeros(0, int), np.zeros(0, int)) == []


@given(st.text(alphabet="ab1' \n.é", max_size=40), st.randoms())
def test_any_two_tokenizers_agree_on_the_words(text, random):
    """Every word is met by its tokens, whatever the cuts, and no other is."""
    cuts = sorted({*(random.randrange(1, len(text)) for _ in range(9) if len(text) > 1), len(text)} - {0})
    whole = [word for word in re.split(r"[ \n.]", text) if re.search(r"[abé]", word)]
    if not text:
        return
    starts, ends = spans(*cuts)
    one_each = words.of_tokens(text, *spans(*range(1, len(text) + 1)))
    unique = {word for word in words.of_tokens(text, starts, ends) if word}
    assert unique <= {word for word in one_each if word} == set(words.counts([text]))
    assert len(whole) <= sum(words.counts([text]).values())
