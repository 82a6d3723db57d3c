"""Pretraining: the small Llama is transformers' own, phases and learning rates are those worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.training import pretrain
from peftodyssey.training.pretrain import PretrainSettings, Stream
from peftodyssey.training.small_llama import init_model
from peftodyssey.training.wsd_phases import ANNEALED, TRUNK, Phase, lr_factor, phases


def config(**changes):
    return {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        "initializer_range": 0.2,
        **changes,
    }


SETTINGS = PretrainSettings(
    peak_lr=1e-2,
    seq_len=16,
    batch_size=4,
    micro_batch_size=4,
    warmup_steps=2,
    decay_share=0.25,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    grad_clip=1.0,
    precision="fp32",
    compiled=False,
    seed=3,
)
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 97, 16 * 11 + 5, dtype=np.int32))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 2},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ],
)
def test_it_is_the_llama_of_transformers(changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    ours = init_model(config(**changes), seed=1)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config(**changes)))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert not missing
    tokens = TOKENS[:40].long().reshape(2, 20)
    assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)
    assert ours(tokens).std() > 0.1


def test_initial_weights_depend_on_the_seed_alone():
    one, same, other = (init_model(config(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert one.lm_head.weight.std().item() == pytest.approx(0.2, rel=0.05)


def test_phases_by_hand():
    schedule = phases(
        {"trunk-10": 10, "trunk-40": 40}, {"annealed-10": 10, "annealed-40": 40}, warmup_steps=2, decay_share=0.15
    )
    assert schedule == [
        Phase(TRUNK, 0, 8),
        Phase(ANNEALED, 8, 10, "annealed-10"),  # 15 % of 10 steps, rounded up, is 2
        Phase(TRUNK, 8, 10, "trunk-10"),
        Phase(TRUNK, 10, 34),
        Phase(ANNEALED, 34, 40, "annealed-40"),
        Phase(TRUNK, 34, 40, "trunk-40"),
    ]


def test_rates_by_hand():
    trunk, branch = Phase(TRUNK, 0, 8), Phase(ANNEALED, 8, 12, "a")
    schedule = {"warmup_steps": 4, "decay_share": 1 / 3}
    assert [lr_factor(trunk, step, **schedule) for step in range(8)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert [lr_factor(branch, step, **schedule) for step in range(8, 12)] == [1, 0.75, 0.5, 0.25]
    before = [lr_factor(replace(branch, start=0), step, **schedule) for step in range(8)]
    assert before == [lr_factor(trunk, step, **schedule) for step in range(8)]  # one schedule from end to end


@given(
    st.sets(st.integers(12, 400), max_size=4),
    st.sets(st.integers(12, 400), min_size=1, max_size=4),
    st.floats(0.01, 0.6),
)
def test_phases_join(trunk, annealed, share):
    schedule = phases({f"t{n}": n for n in trunk}, {f"a{n}": n for n in annealed}, warmup_steps=3, decay_share=share)
    at = 0
    for phase in schedule:
        assert phase.start == at
        assert phase.stop > phase.start
        at = phase.stop if phase.arm == TRUNK else at
    assert {phase.rung for phase in schedule} - {""} == {f"t{n}" for n in trunk} | {f"a{n}" for n in annealed}


def test_an_epoch_visits_every_sequence_once():
    stream = Stream(TOKENS, 16, seed=5)
    assert stream.num_sequences == 11
    rows = torch.cat([stream.batch(step, 4) for step in range(11)])  # 44 places are 4 epochs
    assert rows.shape == (44, 17)
    starts = {tuple(row.tolist()) for row in torch.stack([TOKENS[b * 16 : b * 16 + 17] for b in range(11)])}
    for epoch in rows.split(11):
        assert {tuple(row.tolist()) for row in epoch} == starts
    assert not torch.equal(rows[:11], rows[11:22])
    assert torch.equal(Stream(TOKENS, 16, seed=5).batch(7, 4), stream.batch(7, 4))


def trained(settings, steps=6):
    model = init_model(config(), seed=1)
    work = pretrain.prepare(model, Stream(TOKENS, 16, settings.seed), settings, lambda note: None)
    log = []
    assert pretrain.run_phase(
        work,
        Phase(TRUNK, 0, steps),
        log,
        save=lambda: None,
        checkpoint_every_s=1e9,
        on_step=lambda r: None,
        should_stop=lambda: False,
    )
    return work, log


def test_training_is_that_of_a_plain_loop():
    """The same batches, schedule and decay with transformers' loss and torch's AdamW, written out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    work, log = trained(SETTINGS)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config()))
    theirs.load_state_dict(init_model(config(), seed=1).state_dict(), strict=False)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    stream = Stream(TOKENS, 16, 3)
    for step, rate in enumerate([0, 0.5e-2, 1e-2, 1e-2, 1e-2, 1e-2]):
        batch = stream.batch(step, 4)
        logits = theirs(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        assert log[step].loss_nats == pytest.approx(loss.item(), rel=1e-5)
        assert log[step].lr == pytest.approx(rate)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert log[step].grad_norm == pytest.approx(norm.item(), rel=1e-4)
        for group in groups:
            group["lr"] = rate
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    ours = dict(work.model.named_parameters())
    assert all(torch.allclose(p, ours[name], atol=2e-5) for name, p in theirs.named_parameters())
    assert log[-1].tokens == 6 * 64


def test_passes_of_other_sizes_train_the_same():
    whole, _ = trained(SETTINGS)
    parts, log = trained(replace(SETTINGS, micro_batch_size=3))  # 3 and 1 of 4 sequences
    assert all(
        torch.allclose(a, b, atol=2e-5) for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True)
    )
    assert math.isfinite(log[-1].loss_nats)


def test_a_loss_that_is_not_finite_ends_it():
    from peftodyssey.errors import TrainingError

    with pytest.raises(TrainingError, match="step"):
        trained(replace(SETTINGS, peak_lr=float("1e30"), grad_clip=0.0, warmup_steps=0), steps=8)


def test_held_out_loss_is_the_mean_over_sequences():
    model = init_model(config(), seed=1)
    other = {name: p.detach() * 0.5 for name, p in model.named_parameters()}
    nats = pretrain.mean_nats(model, other, TOKENS, 16, "fp32")
    with torch.no_grad():
        for p in model.parameters():
            p *= 0.5
        rows = torch.stack([TOKENS[b * 16 : b * 16 + 17] for b in range(11)]).long()
        expected = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert nats == pytest.approx(expected.item(), rel=1e-6)


def test_without_a_compiler_the_steps_run_as_they_are_and_say_so_once(monkeypatch) -> None:
    def refuses(tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Cannot find a working triton installation\nmore")

    model, notes = init_model(config(), seed=1), []
    plain = pretrain.prepare(model, Stream(TOKENS, 16, 3), SETTINGS, notes.append)
    monkeypatch.setattr(torch, "compile", lambda loss, **options: refuses)
    settings = replace(SETTINGS, compiled=True)
    training = pretrain.prepare(model, Stream(TOKENS, 16, 3), settings, notes.append)
    tokens = TOKENS[:34].long().reshape(2, 17)
    for _ in range(2):
        assert torch.equal(training.loss(tokens), plain.loss(tokens))
    assert notes == [
        "the steps run without torch.compile, which makes them slower (Cannot find a working triton installation)"
    ]

    def no_memory(tokens: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda loss, **options: no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        pretrain.prepare(model, Stream(TOKENS, 16, 3), settings, notes.append).loss(tokens)
    assert len(notes) == 1
