"""The form of a pass that can be captured as a CUDA graph gives the losses and gradients of the pass itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.trainings import random_model, sequences, with_lora

from peftodyssey.models import varlen_attention
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.training import cuda_graphs, grad_accumulation, gradient_checkpointing
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.settings import TrainSettings

SETTINGS = TrainSettings(lr=1e-2, steps=2, batch_size=4)


class Straight:
    """Runs every pass in its capturable form, as a graph would replay it."""

    passes = tensors = 0

    def run(self, inputs, first, run_pass):
        self.passes, self.tensors = self.passes + 1, len(inputs)
        return run_pass(*(tensor.clone() for tensor in inputs))


def gradient(model, data, graphs):
    model.zero_grad()
    batch = grad_accumulation.batch(data, SETTINGS, 0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradient_checkpointing.checkpointed_model(model, "none"):
        accumulator = grad_accumulation.GradAccumulator(
            model,
            split_lm_head(model),
            SETTINGS,
            torch.device("cpu"),
            autocast=False,
            dropout=SeededDropout(),
            scaler=scaler,
            graphs=graphs,
        )
        loss = accumulator.accumulate([batch], 2, lambda: None)
    return loss, torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
def test_a_pass_that_asks_nothing_of_the_host_gives_the_same(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "MIN_VARLEN_TOKENS_CPU", 1)
    model, _ = with_lora(random_model("llama", dtype=torch.float64))
    model.config._attn_implementation = attention
    data, straight = sequences(num_sequences=4), Straight()
    expected_loss, expected = gradient(model, data, None)
    loss, grads = gradient(model, data, straight)
    assert straight.passes == 2
    assert straight.tensors == (5 if attention == "varlen" else 4)
    assert torch.equal(loss, expected_loss)
    assert (grads - expected).norm() <= 1e-12 * expected.norm()


def test_sequences_that_differ_in_form_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = with_lora(random_model("llama", dtype=torch.float64))
    straight = Straight()
    gradient(model, sequences(num_sequences=4, masked_share=0.3), straight)  # rows without a label
    whole = sequences(num_sequences=4)
    straight_on = np.tile(np.arange(whole.position_ids.shape[1]), (4, 1))
    model.config._attn_implementation = "sdpa"
    gradient(
        model, dataclasses.replace(whole, position_ids=straight_on), straight
    )  # documents that positions do not tell apart
    monkeypatch.setattr(grad_accumulation, "MAX_HIDDEN_ELEMENTS", 8)
    gradient(model, whole, straight)
    assert straight.passes == 0


def test_only_a_gpu_and_known_families_are_captured() -> None:
    notes: list[str] = []
    model = random_model("llama")
    cuda = torch.device("cuda")
    assert cuda_graphs.graph_cache(model, SETTINGS, torch.device("cpu"), list, notes.append) is None
    assert cuda_graphs.graph_cache(model, SETTINGS, cuda, list, notes.append) is not None
    assert cuda_graphs.graph_cache(random_model("gpt2"), SETTINGS, cuda, list, notes.append) is None
    assert (
        cuda_graphs.graph_cache(
            model, dataclasses.replace(SETTINGS, offload_activations=True), cuda, list, notes.append
        )
        is None
    )
    dropping, _ = with_lora(random_model("llama"), dropout=0.1)
    assert cuda_graphs.graph_cache(dropping, SETTINGS, cuda, list, notes.append) is None
    assert notes == []
    model.config.model_type = "never_seen"
    assert cuda_graphs.graph_cache(model, SETTINGS, cuda, list, notes.append) is None
    assert len(notes) == 1
    assert "never_seen" in notes[0]
