"""The ids of a text are those of transformers' own tokenizer, which exports and lm-eval use, whatever its files say."""

from __future__ import annotations

import json

import pytest
from support.damaged import variant
from support.micro import invoke
from support.tiny import tiny
from transformers import AutoTokenizer

from peftodyssey.models.source import resolve
from peftodyssey.models.tokenizer import load_tokenizer

TEXTS = (
    "The king  reigned in 1200 BC; naïve αβγ 🙂\n\tend",
    " leading and trailing ",
    "x\n\n  y\r\n[SEQ] <x>",
    "a <|endoftext|> b",
    "",
)
CHANGES = {
    "plain": {},
    "llama-tokenizer-class": {"tokenizer_class": "LlamaTokenizerFast"},
    "both-special-token-keys": {"extra_special_tokens": ["[SEQ]"], "additional_special_tokens": ["<x>"]},
    "tokens-as-mappings": {"bos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}},
    "without-pad": {"pad_token": None},
    "truncating": {"model_max_length": 3, "truncation_side": "left"},
    "adds-bos": {"add_bos_token": True},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("ids"))


@pytest.mark.parametrize("name", list(CHANGES))
def test_ids_and_special_ids_are_those_of_transformers(name, llama, tmp_path):
    folder = variant(llama, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | CHANGES[name]))
    ours, theirs = load_tokenizer(resolve(str(folder))), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode(text)[0] == expected, text
        assert ours.decode(expected) == theirs.decode(expected, clean_up_tokenization_spaces=False) == text
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)


def test_a_token_beyond_the_embeddings_is_a_sentence(llama, tmp_path):
    folder = variant(llama, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    kinds = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"].append({"id": 4096, "content": " of the", **kinds})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    printed = invoke("score", folder, "bundled/wiki_general", "--tokens", "1k", "--context", "64", "--device", "cpu")
    assert printed.returncode != 0
    assert "' of the', id 4,096" in " ".join(printed.stderr.split())
    assert "only 4,096 embeddings" in " ".join(printed.stderr.split())
