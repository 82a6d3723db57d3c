"""Mean hidden states against those that transformers gives one chunk at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny
from transformers import AutoModelForCausalLM

from peftodyssey.measures.similarity import hidden_states
from peftodyssey.scoring.settings import ScoreSettings

TOKENS = np.random.default_rng(0).integers(5, 900, (7, 20))


def theirs(model, chunk: np.ndarray, layer: int, prefix: int | None) -> np.ndarray:
    ids = chunk.tolist() if prefix is None else [prefix, *chunk.tolist()]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[layer]
    return states[0, 1:].double().mean(0).numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "olmo2", "gemma2"])
def test_they_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(family, tmp_path)).train()
    for layer, prefix in ((-1, 1), (2, None), (0, 1), (1, 1)):
        states = hidden_states.mean_states(model, TOKENS, ScoreSettings(), layer=layer, prefix=prefix)
        expected = np.stack([theirs(model.eval(), chunk, layer, prefix) for chunk in TOKENS])
        assert states == pytest.approx(expected, abs=2e-5)
        model.train()
    assert model.training, "the mode is as it was"


def test_batches_and_shortage_of_memory_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("llama", tmp_path))
    whole = hidden_states.mean_states(model, TOKENS, ScoreSettings(), layer=-1, prefix=1)
    forward, sizes = hidden_states._states, []

    def short(model, ids_bt, layer):
        sizes.append(len(ids_bt))
        if len(ids_bt) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, ids_bt, layer)

    monkeypatch.setattr(hidden_states, "_states", short)
    progress: list[tuple[int, int]] = []
    states = hidden_states.mean_states(
        model, TOKENS, ScoreSettings(), layer=-1, prefix=1, on_progress=lambda *done: progress.append(done)
    )
    assert states == pytest.approx(whole, abs=1e-6)
    assert sizes[0] == 7
    assert max(sizes[-3:]) <= 2
    assert progress[-1] == (7, 7)
