"""AdamW with less memory: 8-bit moments, stochastic rounding, offload; torch's and bitsandbytes' are the oracles."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.training import low_memory_adamw, optim
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import train
from peftodyssey.training.low_memory_adamw import read_moment, stochastic_round_bf16, write_moment, zero_moments
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

SETTINGS = TrainSettings(lr=5e-3, steps=4, batch_size=4, micro_batch_size=2, warmup=0.2, weight_decay=0.1, seed=3)
VARIANTS = {
    "bf16": {"half": True},
    "8 bits": {"optimizer": "adamw8bit"},
    "bf16, 8 bits": {"half": True, "optimizer": "adamw8bit"},
    "bf16, 8 bits, offloaded": {"half": True, "optimizer": "adamw8bit", "offload_optimizer": True},
}


def run(half=False, lora=False, folder=None, should_stop=lambda: False, **changes):
    model = random_model("llama")
    if half:
        model = model.to(torch.bfloat16)
    model, trainable = with_lora(model) if lora else (model, all_trainable(model))
    settings = dataclasses.replace(SETTINGS, precision="bf16" if half else "fp32", **changes)
    result = train(
        model,
        trainable,
        sequences(masked_share=0.2),
        settings,
        device="cpu",
        checkpoints=CheckpointSettings(folder) if folder else None,
        callbacks=TrainCallbacks(should_stop=should_stop),
    )
    return result, {name: p.detach().clone() for name, p in trainable.items()}


def test_in_float32_its_arithmetic_is_torchs():
    torch.manual_seed(0)
    shapes = [(70, 64), (64,), (3, 5)]
    start = [torch.randn(shape) for shape in shapes]
    mine, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    groups = [
        {"params": [p for p in mine if p.ndim > 1], "weight_decay": 0.1},
        {"params": [mine[1]], "weight_decay": 0.0},
    ]
    own = low_memory_adamw.LowMemoryAdamW(
        groups,
        {p: str(n) for n, p in enumerate(mine)},
        TrainSettings(lr=1e-2, betas=(0.9, 0.99), steps=1, batch_size=1),
    )
    oracle = torch.optim.AdamW(
        [{"params": [theirs[0], theirs[2]], "weight_decay": 0.1}, {"params": [theirs[1]], "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.99),
    )
    for _ in range(5):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        norm = low_memory_adamw.clip(own, 1.0)
        assert norm.item() == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 1.0).item(), rel=1e-6)
        own.step()
        oracle.step()
        own.zero_grad()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_eight_bit_moments_are_as_near_as_their_map_allows():
    torch.manual_seed(0)
    for kind, numbers in (("exp_avg", torch.randn(5000)), ("exp_avg_sq", torch.rand(5000) ** 4)):
        state = zero_moments(5000, True, torch.float32, {"device": "cpu"})
        assert read_moment(state, kind, 0, 5000, torch.device("cpu")).abs().max() == 0
        write_moment(state, kind, 0, numbers[:4096])
        write_moment(state, kind, 4096, numbers[4096:])
        back = read_moment(state, kind, 0, 5000, torch.device("cpu"))
        scale = numbers.abs().view(-1)[:4864].view(-1, 256).amax(1).repeat_interleave(256)
        assert ((back - numbers)[:4864].abs() / scale).max() < 0.02
        assert state[kind].dtype == torch.uint8
    small = zero_moments(100, True, torch.bfloat16, {"device": "cpu"})
    assert small["exp_avg"].dtype == torch.float32


def test_stochastic_rounding_keeps_the_mean_and_what_is_exact():
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(stochastic_round_bf16(exact.float(), generator), exact)
    wide = torch.full((200_000,), 1.0 + 1 / 512)  # a quarter of the way between two neighbours
    narrow = stochastic_round_bf16(wide, generator).float()
    assert set(narrow.unique().tolist()) == {1.0, 1.0 + 1 / 128}
    assert narrow.mean().item() == pytest.approx(1.0 + 1 / 512, abs=4 * (3**0.5 / 4 / 128) / 200_000**0.5)
    assert stochastic_round_bf16(-wide, generator).float().mean().item() == pytest.approx(-1.0 - 1 / 512, abs=5e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_follows_float32(variant):
    exact, _ = run()
    near, weights = run(**VARIANTS[variant])
    assert [r.loss_nats for r in near.log] == pytest.approx([r.loss_nats for r in exact.log], abs=0.05)
    assert near.log[-1].loss_nats < near.log[0].loss_nats
    assert {p.dtype for p in weights.values()} == {torch.bfloat16 if VARIANTS[variant].get("half") else torch.float32}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_offloaded_it_has_the_same_bits(optimizer, lora):
    """Accumulated over micro-batches, clipped, in bfloat16."""
    one = run(half=True, lora=lora, optimizer=optimizer, grad_clip=0.1)
    other = run(half=True, lora=lora, optimizer=optimizer, grad_clip=0.1, offload_optimizer=True)
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert [r.grad_norm for r in one[0].log] == [r.grad_norm for r in other[0].log]


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_and_resumed_it_has_the_same_bits(tmp_path, variant):
    whole = run(**VARIANTS[variant])
    calls = iter(range(10))
    broken, _ = run(**VARIANTS[variant], folder=tmp_path, should_stop=lambda: next(calls) >= 2)
    assert broken.interrupted
    again = run(**VARIANTS[variant], folder=tmp_path)
    assert again[0].resumed_from == 2
    assert all(torch.equal(whole[1][name], again[1][name]) for name in whole[1])


def test_no_gradient_stays_on_the_model():
    model = random_model("llama").to(torch.bfloat16)
    trainable = all_trainable(model)
    settings = dataclasses.replace(SETTINGS, precision="bf16", offload_optimizer=True)
    optimizer = optim.build_optimizer(trainable, settings)
    with optim.offload_hooks(optimizer):
        model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
        assert all(p.grad is None for p in trainable.values())
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    assert all(p.grad is not None for p in trainable.values())
