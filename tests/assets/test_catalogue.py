"""Every bundled file decompresses to what checksums.json records."""

from __future__ import annotations

import hashlib
import json

import pytest

from peftodyssey import assets
from peftodyssey.assets.catalogue import checksums, data_file

CASES = [(name, split) for name in assets.corpora() for split in assets.splits(name)]


def test_names() -> None:
    kinds: dict[str, list[str]] = {}
    for name in assets.corpora():
        kinds.setdefault(assets.corpus_kind(name), []).append(name)
    assert {kind: len(names) for kind, names in kinds.items()} == {
        "domain": 8,
        "general": 1,
        "pretraining": 1,
        "task": 5,
    }
    assert kinds["general"] == ["wiki_general"]
    assert kinds["pretraining"] == ["pretrain_sample"]
    assert kinds["task"] == ["arc_easy", "arxiv_field", "boolq", "gsm8k", "python_functions"]
    assert all(assets.splits(name) == ("train", "valid", "test") for name in kinds["domain"])


@pytest.mark.parametrize(("name", "split"), CASES)
def test_lines_are_as_recorded(name: str, split: str) -> None:
    with assets.open_corpus(name, split) as lines:
        content = lines.read()
    assert hashlib.sha256(content).hexdigest() == assets.sha256(name, split)
    assert len(content) == assets.corpus_bytes(name, split)
    records = [json.loads(line) for line in content.splitlines()]
    assert len(records) == checksums()["corpora"][name]["splits"][split]["documents"]
    assert len({record["id"] for record in records}) == len(records)
    wanted = {"id", "text", "source"} | ({"prompt", "completion"} if assets.corpus_kind(name) == "task" else set())
    assert all(wanted <= set(record) and record["text"].strip() for record in records)


def test_an_open_corpus_reads_line_by_line() -> None:
    with assets.open_corpus("arxiv_cs.CL", "valid") as lines:
        assert set(json.loads(next(lines))) == {"id", "text", "source"}


def test_the_ladder_names_every_rung() -> None:
    ladder = assets.ladder("odyssey-3m")
    assert sorted(rung["name"] for rung in ladder["rungs"]) == sorted(assets.rungs("odyssey-3m"))
    assert len(ladder["rungs"]) == 8


def test_packed_rungs_are_small() -> None:
    packed = [data_file("models", "odyssey-3m", f"{rung}.safetensors.xz") for rung in assets.rungs("odyssey-3m")]
    assert all(len(path.read_bytes()) < 5e6 for path in packed)


@pytest.mark.parametrize("ask", [assets.ladder, assets.rungs, assets.splits, assets.corpus_kind, assets.model_files])
def test_unknown_names(ask) -> None:
    with pytest.raises(KeyError):
        ask("no-such-thing")
