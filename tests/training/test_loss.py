"""The chunked loss: gradients by finite differences, values and gradients against the models' own loss."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny import FAMILIES
from support.trainings import VOCABULARY, all_trainable, random_model, sequences

from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.training import loss
from peftodyssey.training.loss import linear_nll_sum, token_nll_sums


def operands(rows=7, width=5, vocabulary=11, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    shapes = ((rows, width), (vocabulary, width), (vocabulary,))
    hidden, weight, bias = (torch.randn(shape, generator=draw, dtype=dtype).requires_grad_() for shape in shapes)
    return hidden, weight, bias, torch.randint(0, vocabulary, (rows,), generator=draw)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss, "chunk_rows", lambda *_: 3)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_by_finite_differences(biased):
    hidden, weight, bias, targets = operands()
    if biased:
        assert torch.autograd.gradcheck(lambda h, w, b: 1.7 * linear_nll_sum(h, w, b, targets), (hidden, weight, bias))
    else:
        assert torch.autograd.gradcheck(lambda h, w: linear_nll_sum(h, w, None, targets), (hidden, weight))


@pytest.mark.usefixtures("small_chunks")
def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = operands()
    linear_nll_sum(hidden, weight.detach(), None, targets).backward()
    assert weight.grad is None
    expected = torch.autograd.grad(
        torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum"), hidden
    )[0]
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("small_chunks")
def test_without_gradients_nothing_is_kept():
    hidden, weight, _, targets = operands()
    with torch.no_grad():
        total = linear_nll_sum(hidden, weight, None, targets)
    assert not total.requires_grad
    assert total.item() == pytest.approx(
        torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum").item()
    )


@pytest.mark.usefixtures("small_chunks")
def test_bf16_autocast_equals_the_same_products_written_out():
    hidden, weight, _, targets = operands(64, 32, 50, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_nll_sum(hidden, weight, None, targets)
        logits = torch.nn.functional.linear(hidden, weight)
    assert logits.dtype == torch.bfloat16
    theirs = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    got = torch.autograd.grad(ours, (hidden, weight))
    for gradient, expected in zip(got, torch.autograd.grad(theirs, (hidden, weight)), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_loss_and_gradients(family, tied):
    """Unpacked, so that the model's `labels` argument is the oracle; tied heads add up both gradients."""
    model = random_model(family, dtype=torch.float64, tie_word_embeddings=tied)
    all_trainable(model)
    oracle = copy.deepcopy(model)
    data = sequences(num_sequences=2, documents=(24,))
    ids, positions, segments = (
        torch.from_numpy(a).long() for a in (data.input_ids, data.position_ids, data.segment_ids)
    )
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], 1)
    labels[0, 4:9] = -100
    trained_rows = (labels.reshape(-1) != -100).nonzero()[:, 0]

    (ours,) = token_nll_sums(
        model, split_lm_head(model), packed_inputs(model, ids, positions, segments), [labels], [trained_rows]
    )
    theirs = oracle(input_ids=ids, labels=torch.cat([torch.full((2, 1), -100), labels[:, :-1]], 1)).loss * len(
        trained_rows
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)  # transformers computes its loss in float32
    ours.backward()
    theirs.backward()
    theirs_by_name = dict(oracle.named_parameters())
    assert tied == (len({"lm_head.weight", "embed_out.weight"} & set(theirs_by_name)) == 0)
    for name, parameter in model.named_parameters():
        expected = theirs_by_name[name].grad
        assert expected.norm() > 0
        assert (parameter.grad - expected).norm() < 2e-6 * expected.norm(), name


def test_a_model_that_caps_its_logits_falls_back_to_its_own():
    model = random_model("gemma2")
    assert model.config.final_logit_softcapping
    assert split_lm_head(model) is None


def test_chunks_follow_the_byte_budget():
    assert loss.chunk_rows(4096, 16 << 20) * 4096 * 4 == 16 << 20
    assert loss.chunk_rows(10**9, 16 << 20) == 16
    assert VOCABULARY < 4096
