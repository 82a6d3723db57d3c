"""What is said of a tokenizer, and how documents look through it."""

import json
from dataclasses import dataclass, replace

import pytest
from tokenizers import Tokenizer, normalizers, processors

from peftodyssey import assets
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.source import resolve
from peftodyssey.corpora.tokenizer_checks import audit, preview
from peftodyssey.recipe.cell import CorpusSpec


@dataclass(frozen=True)
class Framed:
    backend: Tokenizer
    bos_id: int | None = 0
    eos_id: int | None = 0
    pad_id: int | None = 0


@pytest.fixture
def bundled():
    return Framed(Tokenizer.from_file(str(assets.model_files("odyssey-3m") / "tokenizer.json")))


def test_the_bundled_tokenizer_has_nothing_to_warn_of(bundled):
    assert audit(bundled) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bos_id": None, "eos_id": None}, "neither bos nor eos"),
        ({"eos_id": None}, "no eos"),
        ({"bos_id": None, "pad_id": None}, "no bos"),
        ({"bos_id": 1}, "pad is eos"),
    ],
)
def test_missing_and_shared_frames_are_said(bundled, change, expected):
    warnings = audit(replace(bundled, **change))
    assert len(warnings) == 1
    assert expected in warnings[0]


def test_a_tokenizer_that_frames_or_changes_text_is_said(bundled):
    bundled.backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert ["adds bos" in w for w in audit(bundled)] == [True]
    bundled.backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("\n", " ")])
    assert any("changes text" in w for w in audit(bundled))
    assert any("drops line breaks" in w for w in audit(bundled))


def test_preview_shows_text_whole_with_frames_and_what_is_trained(bundled, tmp_path):
    rows = [{"prompt": f"Question {i}: né 🎉?", "completion": " answer\n"} for i in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    corpus = resolve(CorpusSpec("x", str(tmp_path / "a.jsonl")))
    shown = preview(corpus, bundled, 3, objective="sft")
    assert len(shown) == 3
    for pieces in shown:
        assert pieces[0] == ("<|endoftext|>", False)
        assert pieces[-1] == ("<|endoftext|>", True)
        text = "".join(piece for piece, _ in pieces[1:-1])
        assert text in [r["prompt"] + r["completion"] for r in rows]
        assert "".join(piece for piece, trained in pieces[1:-1] if trained) == " answer\n"
    assert all(trained for _, trained in preview(corpus, bundled, 1)[0][1:])


def test_preview_follows_the_newline_policy_of_its_split(bundled, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\\n\\ntwo"}\n')
    corpus = resolve(CorpusSpec("x", str(tmp_path / "a.jsonl"), newline="mismatch"))
    assert "".join(p for p, _ in preview(corpus, bundled, 1)[0][1:-1]) == "onetwo"


def test_bundled_text_under_the_bundled_tokenizer_counts_its_bytes(bundled, tmp_path):
    from peftodyssey.corpora.documents import documents

    corpus = resolve(CorpusSpec("x", "bundled/wiki_history_events"))
    counts = build_index(documents(corpus, "test"), bundled, tmp_path, max_tokens=20_000)
    index = read_index(tmp_path)
    assert 20_000 <= counts["tokens"] < 25_000
    assert counts["truncated"]
    for number, text in enumerate(index.documents["text"].to_pylist()):
        rows = slice(index.starts[number], index.starts[number + 1])
        assert bundled.backend.decode(index.token[rows].tolist(), skip_special_tokens=False) == text
        assert index.bytes[rows].sum() == len(text.encode())
