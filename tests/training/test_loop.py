"""Laws 4 and 5, and what the loop promises beside them: order, callbacks, errors, recomputation."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import FAMILIES
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.corpora.packing import epoch_permutation
from peftodyssey.errors import TrainingError
from peftodyssey.models import varlen_attention
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.training import sampler
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

SETTINGS = TrainSettings(lr=5e-3, steps=5, batch_size=4, micro_batch_size=2, warmup=0.2, seed=3)


def run(data=None, family="llama", dtype=torch.float32, dropout=0.0, full=False, **changes):
    model = random_model(family, dtype=dtype)
    model, trainable = (model, all_trainable(model)) if full else with_lora(model, dropout=dropout)
    data = data or sequences(masked_share=0.3)
    result = train(model, trainable, data, dataclasses.replace(SETTINGS, **changes), device="cpu")
    return result, {name: p.detach().clone() for name, p in trainable.items()}, model


def distance(left, right) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("full", [True, False])
def test_law_4_micro_batches_do_not_change_the_result(full):
    """Sequences with unequal numbers of trained tokens: a mean over micro-batches would be another loss."""
    whole = run(dtype=torch.float64, full=full, micro_batch_size=4)
    for micro_batch_size in (1, 3, 9):
        pieces = run(dtype=torch.float64, full=full, micro_batch_size=micro_batch_size)
        assert distance(whole[1], pieces[1]) < 1e-10
        assert [r.loss_nats for r in pieces[0].log] == pytest.approx([r.loss_nats for r in whole[0].log], rel=1e-10)


def nll_and_gradients(model, inputs, labels):
    model.zero_grad()
    from peftodyssey.training.loss import token_nll_sums

    (total,) = token_nll_sums(model, split_lm_head(model), inputs, [labels], [None])
    total.backward()
    return total.item(), torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
def test_law_5_packing_does_not_leak_and_an_all_ones_mask_does(family):
    model = random_model(family, dtype=torch.float64)
    all_trainable(model)
    model.train()
    data = sequences(num_sequences=1)
    ids, labels, positions, segments = (
        torch.from_numpy(a).long() for a in (data.input_ids, data.labels, data.position_ids, data.segment_ids)
    )
    packed, packed_gradient = nll_and_gradients(model, packed_inputs(model, ids, positions, segments), labels)
    apart, apart_gradient = 0.0, torch.zeros_like(packed_gradient)
    for segment in range(3):
        inside = data.segment_ids[0] == segment
        nll, gradient = nll_and_gradients(model, {"input_ids": ids[:, inside]}, labels[:, inside])
        apart, apart_gradient = apart + nll, apart_gradient + gradient
    assert packed == pytest.approx(apart, rel=1e-6)
    assert (packed_gradient - apart_gradient).norm() < 2e-6 * apart_gradient.norm()
    ones = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids)}
    leaking, leaking_gradient = nll_and_gradients(model, ones, labels)
    assert abs(leaking - apart) > 1e-3
    assert (leaking_gradient - apart_gradient).norm() > 1e-3 * apart_gradient.norm()


def test_zero_trained_tokens_is_an_error():
    data = sequences(masked_share=1.1)
    with pytest.raises(TrainingError, match="nothing to train on"):
        run(data)


def test_a_step_without_trained_tokens_is_survived():
    data = sequences(num_sequences=4)
    data.labels[:2] = -100
    result, _, _ = run(data, batch_size=2, steps=2, micro_batch_size=1)
    assert result.tokens == 48


@given(
    num_sequences=st.integers(1, 9),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 9),
    step=st.integers(0, 30),
)
@settings(max_examples=60)
def test_steps_take_the_epochs_orders_one_after_the_other(num_sequences, batch_size, seed, step):
    row = np.concatenate(
        [epoch_permutation(num_sequences, seed, epoch) for epoch in range(12 * 31 + 1)][
            : (step + 1) * batch_size // num_sequences + 1
        ]
    )
    expected = row[step * batch_size : (step + 1) * batch_size]
    assert np.array_equal(sampler.step_indices(num_sequences, batch_size, seed, step), expected)


def test_log_counts_tokens_and_the_loss_is_that_of_the_batch_before_the_update():
    data = sequences(masked_share=0.3)
    result, _, _ = run(data)
    counts = [sampler.trained_tokens(data, sampler.step_indices(6, 4, 3, step)) for step in range(5)]
    assert [r.tokens for r in result.log] == list(np.cumsum(counts))
    assert result.log[0].lr == 0.0
    assert result.final_loss < result.log[0].loss_nats
    assert result.seconds == pytest.approx(sum(r.seconds for r in result.log))


def test_scoring_in_between_changes_nothing():
    """The callback scores in evaluation mode and draws random numbers; dropout is not affected."""
    evals, models = [], []

    def on_eval(*arguments):
        evals.append(arguments)
        models[0].eval()
        torch.rand(7)

    model, trainable = with_lora(random_model(), dropout=0.3)
    models.append(model)
    changes = dataclasses.replace(SETTINGS, eval_at_steps=(2, 5))
    result = train(
        model, trainable, sequences(masked_share=0.3), changes, device="cpu", callbacks=TrainCallbacks(on_eval=on_eval)
    )
    _, undisturbed, _ = run(dropout=0.3)
    assert evals == [(0, 2, result.log[1].tokens), (1, 5, result.tokens)]
    assert all(torch.equal(trainable[name], undisturbed[name]) for name in trainable)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_step():
    with pytest.raises(TrainingError, match=r"step [2-9].*learning rate") as raised:
        run(lr=1e30, full=True, schedule="constant", warmup=0.0)
    assert "smaller lr" in raised.value.next_step


@pytest.mark.parametrize("gradient_checkpointing", ["selective", "full"])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recomputation_gives_the_same_training(family, full, gradient_checkpointing):
    settings = {"family": family, "dtype": torch.float64, "full": full, "dropout": 0.0 if full else 0.2}
    stored, recomputed = (
        run(**settings),
        run(**settings, gradient_checkpointing=gradient_checkpointing, offload_activations=True),
    )
    assert distance(stored[1], recomputed[1]) < 1e-12
    assert not any("forward" in vars(module) for module in recomputed[2].modules())


@pytest.mark.parametrize("gradient_checkpointing", ["selective", "full"])
def test_recomputation_does_recompute(gradient_checkpointing):
    calls = []
    model, trainable = with_lora(random_model())
    model.get_base_model().model.layers[0].mlp.gate_proj.register_forward_pre_hook(
        lambda *_: calls.append(1) if torch.is_grad_enabled() else None
    )
    train(
        model,
        trainable,
        sequences(),
        dataclasses.replace(SETTINGS, steps=1, gradient_checkpointing=gradient_checkpointing),
        device="cpu",
    )
    assert len(calls) == 4  # two micro-batches, each forward and again in the backward pass


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_follows_float32(precision):
    exact, low = run(full=True), run(full=True, precision=precision)
    assert [r.loss_nats for r in low[0].log] == pytest.approx([r.loss_nats for r in exact[0].log], abs=0.02)
    assert distance(exact[1], low[1]) > 0
    assert all(p.dtype == torch.float32 for p in low[1].values())


def test_frozen_weights_keep_their_bits():
    before = {name: p.clone() for name, p in random_model().named_parameters()}
    _, _, model = run()
    after = dict(model.get_base_model().named_parameters())
    for name, value in before.items():
        now = after[name] if name in after else after[name.replace(".weight", ".base_layer.weight")]
        assert torch.equal(value, now)


def test_settings_start_without_torch():
    code = "import sys, peftodyssey.training.settings, peftodyssey.training.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05), ("fp16", 0.05)])
def test_cuda_follows_the_cpu(precision, tolerance):
    expected, _, _ = run()
    model, trainable = with_lora(random_model().to("cuda"))
    result = train(
        model,
        trainable,
        sequences(masked_share=0.3),
        dataclasses.replace(SETTINGS, precision=precision),
        device="cuda",
    )
    assert [r.loss_nats for r in result.log] == pytest.approx([r.loss_nats for r in expected.log], abs=tolerance)


@pytest.mark.parametrize("gradient_checkpointing", ["none", "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_documents_told_by_their_ends_train_as_those_told_by_masks(family, gradient_checkpointing, monkeypatch):
    expected, by_masks, _ = run(family=family, dtype=torch.float64, gradient_checkpointing=gradient_checkpointing)
    calls: list[int] = []
    original = varlen_attention._bucketed_sdpa
    monkeypatch.setattr(varlen_attention, "_bucketed_sdpa", lambda *inputs: calls.append(1) or original(*inputs))
    monkeypatch.setattr(varlen_attention, "MIN_VARLEN_TOKENS_CPU", 1)
    result, by_ends, _ = run(family=family, dtype=torch.float64, gradient_checkpointing=gradient_checkpointing)
    assert calls
    assert distance(by_masks, by_ends) < 1e-10
    assert [r.grad_norm for r in result.log] == pytest.approx([r.grad_norm for r in expected.log], rel=1e-9)


@pytest.mark.parametrize("gradient_checkpointing", ["none", "full"])
def test_dropout_falls_on_the_same_numbers_in_every_micro_batch(gradient_checkpointing):
    whole = run(dtype=torch.float64, dropout=0.3, micro_batch_size=4)
    assert distance(whole[1], run(dtype=torch.float64, dropout=0.0, micro_batch_size=4)[1]) > 1e-4
    for micro_batch_size in (1, 3):
        pieces = run(
            dtype=torch.float64,
            dropout=0.3,
            micro_batch_size=micro_batch_size,
            gradient_checkpointing=gradient_checkpointing,
        )
        assert distance(whole[1], pieces[1]) < 1e-10
