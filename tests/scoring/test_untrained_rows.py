"""Tokens of a text whose embedding row was never trained are found by the norm of the row."""

from __future__ import annotations

import pytest
import torch
from support.damaged import variant
from support.indexes import hand_index
from support.micro import invoke
from transformers import AutoModelForCausalLM

from peftodyssey import assets
from peftodyssey.models.source import resolve, weights_folder
from peftodyssey.scoring.untrained_rows import untrained_rows

TEXT = hand_index([[5, 7, 5, 9], [5, 11, 2]])


def bundled(rung):
    return AutoModelForCausalLM.from_pretrained(
        weights_folder(resolve("bundled/odyssey-3m", rung)), dtype=torch.float32
    )


@pytest.mark.parametrize("rung", ["annealed-16M", "trunk-64M", "annealed-1024M"])
def test_a_trained_vocabulary_has_none(rung):
    assert untrained_rows(bundled(rung), TEXT).rows == 0


@pytest.mark.parametrize("scale", [0.0, 0.1, 10.0])
def test_rows_are_counted_where_the_text_uses_them(scale):
    model = bundled("annealed-1024M")
    with torch.no_grad():
        model.model.embed_tokens.weight[[5, 9, 4000]] *= scale
    found = untrained_rows(model, TEXT)
    assert (found.rows, found.places, found.tokens) == (3, 4, (5, 9))


def test_score_says_so(tmp_path):
    folder = weights_folder(resolve("bundled/odyssey-3m"))

    def untrained(tensors):
        rows = tensors["model.embed_tokens.weight"].clone()
        rows[[262, 263]] *= 0.01
        return {**tensors, "model.embed_tokens.weight": rows, "lm_head.weight": rows.clone()}

    bad = variant(folder, tmp_path / "bad", untrained)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bad / file).write_bytes((assets.model_files("odyssey-3m") / file).read_bytes())
    arguments = ("bundled/wiki_general", "--tokens", "1k", "--context", "256", "--device", "cpu")
    assert "looks untrained" in invoke("score", bad, *arguments).stderr
    assert "looks untrained" not in invoke("score", "bundled/odyssey-3m", *arguments).stderr
