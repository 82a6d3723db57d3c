"""Control tokens that a text spells out are its characters, unless the recipe asks to parse them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from support.micro import RECIPE, invoke
from transformers import AutoTokenizer

from peftodyssey import api, assets
from peftodyssey.corpora import source as corpus_source
from peftodyssey.corpora.control_tokens import control_token_note
from peftodyssey.corpora.documents import Document
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.models.source import resolve
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe.cell import CorpusSpec

TEXT = "the river and <|endoftext|> the king, ünï <|endoftext|>"


@pytest.fixture
def tokenizer():
    return load_tokenizer(resolve("bundled/odyssey-3m"))


@pytest.mark.parametrize("parse", [False, True])
def test_the_ids_are_those_of_transformers_and_bytes_add_up(parse, tokenizer, tmp_path):
    theirs = AutoTokenizer.from_pretrained(assets.model_files("odyssey-3m"))
    counts = build_index([Document("a", TEXT)], tokenizer, tmp_path, parse_special=parse)
    index = read_index(tmp_path)
    expected = theirs(TEXT, add_special_tokens=False, split_special_tokens=not parse).input_ids
    assert index.token.tolist() == expected
    assert (0 in expected) == parse
    assert index.bytes.sum() == len(TEXT.encode())
    assert counts["control_tokens"] == (0 if parse else 2)
    assert tokenizer.decode(expected) == TEXT
    assert tokenizer.encode(TEXT)[0] == theirs(TEXT, add_special_tokens=False, split_special_tokens=True).input_ids


def text_file(tmp_path, text=TEXT):
    path = tmp_path / "spelt.jsonl"
    rows = [{"text": f"{'word ' * 80}{text} number {n}"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_check_counts_the_places_and_says_how_they_are_read(tmp_path, tokenizer):
    path = text_file(tmp_path)
    recipe = tmp_path / "spelt.yaml"
    for option, words in (("", "are encoded as text"), (", special_tokens: parse", "are read as control tokens")):
        recipe.write_text(RECIPE.replace("[bundled/arxiv_cs.CL]", f"[{{path: {path}{option}}}]"))
        printed = " ".join(invoke("check", recipe).stdout.split())
        assert words in printed
        documents = int(re.search(r"in the first (\d+) documents spell", printed)[1])
        assert f"{2 * documents:,} places" in printed
    spec = CorpusSpec("plain", str(text_file(tmp_path, "nothing")))
    assert control_token_note(corpus_source.resolve(spec), tokenizer.backend) == ""


def test_asked_for_they_are_another_text(tmp_path):
    path, recipe = text_file(tmp_path), tmp_path / "spelt.yaml"
    plans = []
    for option in ("", ", special_tokens: parse", ", special_tokens: text"):
        recipe.write_text(RECIPE.replace("[bundled/arxiv_cs.CL]", f"[{{path: {path}{option}}}]"))
        plans.append(api.plan(recipe, device="cpu"))
    hashes = [{task.hash for task in plan.cells} for plan in plans]
    assert hashes[0] == hashes[2]
    assert not hashes[0] & hashes[1]
    folders = [{index.folder for index in plan.indexes if index.corpus.name == "spelt"} for plan in plans]
    assert folders[0] == folders[2]
    assert not folders[0] & folders[1]


def test_a_chat_template_writes_control_tokens_and_no_second_start(tokenizer, tmp_path):
    """`<bos>` once, though the template writes it and the tokenizer would add it; the rendered end is one token."""
    from tokenizers import processors

    backend = tokenizer.backend
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    build_index(
        [Document("a", "<|endoftext|>user: hi\n\nassistant: ho<|endoftext|>")], tokenizer, tmp_path, parse_special=True
    )
    token = read_index(tmp_path).token
    assert np.flatnonzero(token == 0).tolist() == [0, len(token) - 1]
