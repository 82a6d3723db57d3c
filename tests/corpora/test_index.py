"""The index: bytes add up on any text and any tokenizer, caps choose the same documents, rows describe their text."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.indexes import hand_index
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from peftodyssey.corpora import choose, index, packing, token_classes
from peftodyssey.corpora.documents import Document
from peftodyssey.corpora.packing import SpecialTokens
from peftodyssey.errors import CorpusError

TEXTS = [
    "The cat sat on the mat. It was 42 years old!\n\n",
    "héllo wörld 🎉🎊 世界 naïve café\n",
    "x = [1, 2]; print(x)\n",
] * 20


@dataclass(frozen=True)
class Wrapped:
    backend: Tokenizer


@lru_cache
def byte_level() -> Wrapped:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return Wrapped(tokenizer)


@lru_cache
def unigram() -> Wrapped:
    """Like SentencePiece: spaces become marks, a prefix mark is added, characters are normalised."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return Wrapped(tokenizer)


def ends_of(tokenizer, text):
    return np.array(
        [end for _, end in tokenizer.backend.encode(text, add_special_tokens=False).offsets], dtype=np.int32
    )


@pytest.mark.parametrize("make", [byte_level, unigram])
@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=80))
def test_bytes_add_up_on_any_text(make, text):
    counted = index.token_bytes(text, ends_of(make(), text))
    assert (counted >= 0).all()
    assert len(counted) == 0 or counted.sum() == len(text.encode())


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_byte_positions_are_those_of_the_encoder(text):
    assert index.byte_positions(text).tolist() == [len(text[:i].encode()) for i in range(len(text) + 1)]


@pytest.mark.parametrize("make", [byte_level, unigram])
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)))
def test_every_token_of_any_text_has_a_class(make, text):
    encoding = make().backend.encode(text, add_special_tokens=False)
    offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    classes = token_classes.classify(text, offsets[:, 0], offsets[:, 1])
    assert len(classes) == len(encoding.ids)
    assert set(classes.tolist()) <= set(range(len(token_classes.TOKEN_CLASSES)))


def test_shared_characters_and_gaps_by_hand():
    # "a 🎉 b": byte tokens of the emoji share (2, 3); the spaces are covered by no token
    assert index.token_bytes("a 🎉 b ", np.array([1, 3, 3, 3, 5])).tolist() == [1, 5, 0, 0, 3]


def classified(text, pieces):
    ends = np.cumsum([len(piece) for piece in pieces])
    assert "".join(pieces) == text
    starts = ends - [len(piece) for piece in pieces]
    return [token_classes.TOKEN_CLASSES[i] for i in token_classes.classify(text, starts, ends)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            ["The", " cat", "s", " of", " off", "er", "."],
            "function_word word_start continuation function_word word_start continuation punctuation",
        ),
        ([" don", "'t", " ", "\n\n", "42", " 7", "."], "word_start continuation space newline digit digit punctuation"),
        (
            ["(the", ")", ".\n", "  ", "😀", " +", "x", "1", "b"],
            "word_start punctuation newline space other punctuation word_start digit continuation",
        ),
        (["in", "deed", " in", "-", "door"], "word_start continuation function_word punctuation word_start"),
        (["世", "界"], "word_start continuation"),
    ],
)
def test_classes_by_hand(pieces, expected):
    assert classified("".join(pieces), pieces) == expected.split()


def test_class_does_not_depend_on_whether_the_space_is_in_the_offsets():
    text = "The cat of Rome"
    with_space = token_classes.classify(text, np.array([0, 3, 7, 10]), np.array([3, 7, 10, 15]))
    without = token_classes.classify(text, np.array([0, 4, 8, 11]), np.array([3, 7, 10, 15]))
    assert with_space.tolist() == without.tolist()


def test_byte_tokens_of_one_character_go_on_with_its_word():
    classes = token_classes.classify("é", np.array([0, 0]), np.array([1, 1]))
    assert [token_classes.TOKEN_CLASSES[i] for i in classes] == ["word_start", "continuation"]


def build(tmp_path, texts, tokenizer=None, **options):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    counts = index.build_index(documents, tokenizer or byte_level(), tmp_path, **options)
    return counts, index.read_index(tmp_path)


def test_rows_describe_their_documents(tmp_path):
    texts = ["The cat sat.", "", "héllo 🎉 世界\n", "<|end|> x"]
    counts, read = build(tmp_path, texts, parse_special=True)
    assert counts["documents"] == 3
    assert counts["dropped"] == 1
    assert counts["bytes"] == sum(len(t.encode()) for t in texts) == read.bytes.sum()
    assert counts["tokens"] == len(read.token) == read.starts[-1]
    table = read.documents
    assert table["text"].to_pylist() == [texts[0], texts[2], texts[3]]
    assert table["id"].to_pylist() == ["d0", "d2", "d3"]
    assert table["cluster"].to_pylist() == ["0:d0", "1:d2", "2:d3"]
    for number, text in enumerate(table["text"].to_pylist()):
        rows = slice(read.starts[number], read.starts[number + 1])
        assert read.token[rows].tolist() == byte_level().backend.encode(text, add_special_tokens=False).ids
        assert (read.document[rows] == number).all()
        assert read.position[rows].tolist() == list(range(rows.stop - rows.start))
        assert read.bytes[rows].sum() == len(text.encode()) == table["bytes"][number].as_py()
    assert read.trained.all()
    assert token_classes.TOKEN_CLASSES[read.token_class[read.starts[2]]] == "special"


def test_prompt_tokens_are_not_trained(tmp_path):
    documents = [Document("a", "The cat sat.", prompt_chars=8), Document("b", "on the mat")]
    index.build_index(documents, byte_level(), tmp_path)
    read = index.read_index(tmp_path)
    assert read.trained.tolist() == [(d == 1) or (s >= 8) for d, s in zip(read.document, read.start, strict=True)]


def test_newlines_are_stripped_on_both_sides_of_a_prompt(tmp_path):
    index.build_index([Document("a", "q\nq\n\nans\nwer", prompt_chars=5)], byte_level(), tmp_path, newline="strip")
    read = index.read_index(tmp_path)
    assert read.documents["text"][0].as_py() == "qqanswer"
    assert read.trained.tolist() == (read.start >= 2).tolist()


def test_collapse_makes_one_newline_of_many(tmp_path):
    _, read = build(tmp_path, ["a\n\n\nb\r\n\r\nc\nd"], newline="collapse")
    assert read.documents["text"][0].as_py() == "a\nb\nc\nd"


def test_cap_takes_whole_documents_by_hash_whatever_their_order(tmp_path):
    texts = [f"The cat number {i} sat on mat {i * 7}." for i in range(300)]
    counts, first = build(tmp_path / "a", texts, max_tokens=500)
    _, second = build(tmp_path / "b", texts[::-1], max_tokens=500)
    one, other = first.documents["text"].to_pylist(), second.documents["text"].to_pylist()
    assert counts["truncated"]
    assert one == sorted(one, key=texts.index)
    assert set(one) == set(other)
    assert (
        sorted(one, key=lambda t: hashlib.sha256(t.encode()).hexdigest())
        == sorted(texts, key=lambda t: hashlib.sha256(t.encode()).hexdigest())[: len(one)]
    )
    last = max(one, key=lambda t: hashlib.sha256(t.encode()).hexdigest())
    assert counts["tokens"] - len(byte_level().backend.encode(last).ids) < 500 <= counts["tokens"]


def test_cap_beyond_the_text_takes_all(tmp_path):
    counts, _ = build(tmp_path, TEXTS, max_tokens=10**6)
    assert not counts["truncated"]
    assert counts["documents"] == len(TEXTS)


def test_cap_holds_little_text_while_it_looks(monkeypatch):
    monkeypatch.setattr(choose, "MAX_CHARACTERS_PER_TOKEN", 4)
    texts = [Document(str(i), f"{i:010d}") for i in range(1000)]
    counts = {"truncated": False, "dropped": 0, "cut": 0}
    candidates = choose._smallest(texts, 100, counts)
    assert 400 <= sum(len(d.text) for _, d in candidates) <= 410
    assert {d.key for _, d in candidates} == set(sorted(t.key for t in texts)[: len(candidates)])


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_a_text_without_two_tokens_is_an_error(tmp_path, texts):
    with pytest.raises(CorpusError, match="nothing can be predicted"):
        build(tmp_path, texts)


def unshuffled(monkeypatch):
    class Still:
        def permutation(self, n):
            return np.arange(n)

    monkeypatch.setattr(packing.np.random, "default_rng", lambda seed: Still())


def test_packed_sequences_by_hand(monkeypatch):
    unshuffled(monkeypatch)
    packed = packing.pack(hand_index([[11, 12, 13], [21, 22, 23, 24, 25]]), SpecialTokens(1, 2), seq_len=4, seed=0)
    assert packed.input_ids.tolist() == [[1, 11, 12, 13], [1, 21, 22, 23]]
    assert packed.labels.tolist() == [[11, 12, 13, 2], [21, 22, 23, 24]]
    packed = packing.pack(hand_index([[11, 12, 13], [21, 22, 23, 24, 25]]), SpecialTokens(1, 2), seq_len=5, seed=0)
    assert packed.input_ids.tolist() == [[1, 11, 12, 13, 1], [21, 22, 23, 24, 25]]
    assert packed.labels.tolist() == [[11, 12, 13, 2, 21], [22, 23, 24, 25, 2]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]
    assert packed.segment_ids.tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert (
        packed.input_ids.dtype
        == packed.labels.dtype
        == packed.position_ids.dtype
        == packed.segment_ids.dtype
        == np.int32
    )


def test_packed_sequences_without_special_tokens(monkeypatch):
    unshuffled(monkeypatch)
    packed = packing.pack(hand_index([[11, 12, 13], [21, 22, 23]]), SpecialTokens(None, None), seq_len=4, seed=0)
    assert packed.input_ids.tolist() == [[11, 12, 21, 22]]
    assert packed.labels.tolist() == [[12, 13, 22, 23]]
    assert packed.segment_ids.tolist() == [[0, 0, 1, 1]]


def test_every_token_is_a_target_once_and_the_seed_only_reorders():
    documents = [list(range(100 * i, 100 * i + 3 + i % 7)) for i in range(1, 60)]
    targets = sorted(t for d in documents for t in d)
    orders = []
    for seed in (0, 1):
        packed = packing.pack(hand_index(documents), SpecialTokens(1, None), seq_len=1, seed=seed)
        assert sorted(packed.labels.ravel().tolist()) == targets
        orders.append(packed.labels.ravel().tolist())
    assert orders[0] != orders[1]


def test_order_is_a_permutation_that_differs_by_epoch_and_seed():
    assert sorted(packing.epoch_permutation(50, 1, 0)) == list(range(50))
    assert packing.epoch_permutation(50, 1, 0).tolist() == packing.epoch_permutation(50, 1, 0).tolist()
    assert len({tuple(packing.epoch_permutation(50, s, e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_too_little_text_is_an_error():
    with pytest.raises(CorpusError, match="less than one sequence of 64"):
        packing.pack(hand_index([[11, 12, 13]]), SpecialTokens(1, 2), seq_len=64, seed=0)


def test_tokenizer_json_of_the_tests_is_plain(tmp_path):
    """The unigram tokenizer must add and normalise, or it would test nothing."""
    assert json.loads(unigram().backend.to_str())["normalizer"] == {"type": "NFKC"}
    encoding = unigram().backend.encode("ﬁne ①", add_special_tokens=False)
    assert "".join(encoding.tokens).startswith("▁fi")


def test_a_document_longer_than_the_cap_is_cut_at_it(tmp_path):
    long = Document("long", "word " * 50_000, prompt_chars=10, answers=((10, 100), (200, 249_000), (249_500, 249_600)))
    counts = index.build_index([long], byte_level(), tmp_path, max_tokens=100)
    assert (counts["cut"], counts["tokens"], counts["truncated"]) == (1, 100, False)
    read = index.read_index(tmp_path)
    [cut] = read.documents.to_pylist()
    assert long.text.startswith(cut["text"])
    assert cut["bytes"] == len(cut["text"]) == read.end[-1] < 400
    assert cut["sha256"] == long.key
    assert 0 < read.trained.sum() < 100  # characters 10 to 100, and from 200
    shortened = choose.beginning(long, 210)
    assert shortened.answers == ((10, 100), (200, 210))
    assert choose.beginning(long, 10**6) is long


def test_a_cap_takes_the_documents_that_sorting_all_of_them_would(tmp_path):
    texts = [Document(str(i), f"{i} " * (i % 40 + 1)) for i in range(500)]
    ordered = sorted(texts, key=lambda document: document.key)
    lengths = {d.id: len(byte_level().backend.encode(d.text, add_special_tokens=False).ids) for d in texts}
    for cap in (60, 400, 3000):
        taken, total = [], 0
        for document in ordered:
            if total >= cap:
                break
            taken.append(document.id)
            total += lengths[document.id]
        index.build_index(texts, byte_level(), tmp_path / str(cap), max_tokens=cap)
        assert sorted(index.read_index(tmp_path / str(cap)).documents["id"].to_pylist()) == sorted(taken)
