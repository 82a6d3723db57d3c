"""Overlap of texts: planted shares are found within a point, disjoint halves have none."""

from __future__ import annotations

import random
import time

import pytest

from peftodyssey.corpora.documents import Document, documents, text_key
from peftodyssey.corpora.overlap import Overlap, Reference, Windows, first_characters
from peftodyssey.corpora.source import resolve
from peftodyssey.recipe.cell import CorpusSpec


def keyed(texts):
    return [(text_key(text), text) for text in texts]


def halves(name):
    found = [d.text for d in documents(resolve(CorpusSpec("x", f"bundled/{name}")), "train")]
    random.Random(0).shuffle(found)
    middle = len(found) // 2
    return found[:middle], found[middle:]


def changed(text, seed, every=20):
    """About one word in `every` replaced, line breaks and case changed."""
    draw, words = random.Random(seed), text.split()
    return "  ".join("other" if draw.random() < 1 / every else word.upper() for word in words)


@pytest.mark.parametrize("name", ["arxiv_quant-ph", "arxiv_cs.CL"])
def test_planted_copies_are_found_within_a_point_and_halves_have_none(name):
    one, other = halves(name)
    reference = Reference(keyed(one))
    clean = reference.overlap(keyed(other))
    assert (clean.exact, clean.near) == (0, 0)
    count = round(0.05 * len(other))
    copies = reference.overlap(keyed([*one[:count], *other[count:]]))
    near = reference.overlap(keyed([*(changed(text, i) for i, text in enumerate(one[:count])), *other[count:]]))
    assert copies.exact == count
    assert abs(copies.share - 0.05) <= 0.01
    assert near.exact == 0
    assert abs(near.share - 0.05) <= 0.01


def test_copies_that_nobody_planted_are_found():
    one, other = halves("code_python_stdlib")
    found = [text for key, text in keyed(other) if Reference(keyed(one)).contains(key, text)]
    assert [text for text in found if text.startswith("def _get_normal_name(")]  # in tokenize, and again in lib2to3
    assert len(found) < 0.02 * len(other)


def test_a_document_inside_a_longer_one_is_contained_and_not_the_other_way_round():
    part = " ".join(f"word{i}" for i in range(60))
    whole = " ".join(f"before{i}" for i in range(300)) + " " + part
    assert Reference(keyed([whole])).contains(*keyed([part])[0]) == "near"
    assert Reference(keyed([part])).contains(*keyed([whole])[0]) is None
    assert Reference(keyed([part, "and one more"])).has_one_in(whole)
    assert not Reference(keyed([whole])).has_one_in(part)
    assert Reference(keyed([part])).contains(*keyed([part.replace(" ", "\n ")])[0]) == "exact"


def test_what_all_documents_share_tells_nothing():
    prompt = " ".join(f"system{i}" for i in range(100))
    one, other = ([f"{prompt} " + " ".join(f"{side}{i}x{k}" for k in range(12)) for i in range(50)] for side in "ab")
    assert Reference(keyed(one)).overlap(keyed(other)) == Overlap(50, 0, 0)
    assert Reference(keyed(one[:5])).overlap(keyed(other[:5])).near == 5  # of few documents it is not known


@pytest.mark.parametrize("text", ["日本語の文章は空白なしで書かれているので文字ごとに数える", "a b", "", "?!"])
def test_any_text_has_windows(text):
    windows = Windows().of(text)
    assert len(windows) == (0 if text in ("", "?!") else max(1, len(text) - 7) if len(text) > 3 else 1)
    assert windows.tolist() == Windows().of(text.upper()).tolist()


def test_time_follows_the_characters_that_are_read():
    def endless():
        i = 0
        while True:
            yield Document(str(i), f"{i} " * 1000).key, f"{i} word " * 1000
            i += 1

    started = time.perf_counter()
    assert sum(len(text) for _, text in first_characters(endless(), 100_000)) < 120_000
    assert time.perf_counter() - started < 5
    assert [len(text) for _, text in first_characters([("k", "x" * 1000)], 10)] == [10]
