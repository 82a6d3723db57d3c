"""Each constraint's law: L2-SP against a loop of plain PyTorch, the ball's radius, replay of nothing, the bound of an
early stop.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.trainings import VOCABULARY, all_trainable, random_model, sequences, with_lora

from peftodyssey.corpora.packing import IGNORE_INDEX
from peftodyssey.training import replay
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import train
from peftodyssey.training.replay import concat_replay
from peftodyssey.training.settings import EarlyStopSettings, TrainCallbacks, TrainSettings

SETTINGS = TrainSettings(lr=5e-3, steps=6, batch_size=4, micro_batch_size=2, warmup=0.2, schedule="constant", seed=3)


def run(full=True, data=None, dtype=torch.float64, callbacks=None, **changes):
    """(result, weights before, weights after, model)."""
    model = random_model(dtype=dtype)
    model, trainable = (model, all_trainable(model)) if full else with_lora(model)
    before = {name: p.detach().clone() for name, p in trainable.items()}
    settings = dataclasses.replace(SETTINGS, **changes)
    result = train(
        model, trainable, data or sequences(), settings, device="cpu", callbacks=callbacks or TrainCallbacks()
    )
    return result, before, {name: p.detach().clone() for name, p in trainable.items()}, model


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_l2_sp_with_a_huge_strength_returns_the_base():
    _, before, after, _ = run(l2_sp=1e9)
    assert same(before, after)
    assert not same(before, run()[2])


def test_l2_sp_with_a_huge_strength_leaves_an_adapter_without_an_update():
    _, _, after, _ = run(full=False, l2_sp=1e9)
    assert all(not after[name].any() for name in after if "lora_B" in name)
    assert all(after[name].any() for name in after if "lora_A" in name)


@pytest.mark.parametrize("strength", [0.0, 3.0, 40.0])
def test_l2_sp_is_a_decoupled_decay_towards_the_start(strength):
    """Oracle: torch.optim.AdamW on the weights, then the pull of the docs, written out."""
    from peftodyssey.models.packed_inputs import packed_inputs
    from peftodyssey.training import sampler

    data, model = sequences(), random_model(dtype=torch.float64)
    parameters = all_trainable(model)
    start = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=SETTINGS.lr, weight_decay=0.0)
    model.train()
    for step in range(SETTINGS.steps):
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.lr * min(1.0, step / SETTINGS.warmup_steps)
        chosen = sampler.step_indices(len(data.labels), 4, SETTINGS.seed, step)
        ids, labels, positions, segments = (
            torch.from_numpy(getattr(data, name)[chosen]).long()
            for name in ("input_ids", "labels", "position_ids", "segment_ids")
        )
        logits = model(**packed_inputs(model, ids, positions, segments)).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), SETTINGS.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(start[name] + (1 - group["lr"] * strength) * (p - start[name]))
    _, _, after, _ = run(l2_sp=strength)
    assert max((after[name] - p).abs().max().item() for name, p in parameters.items()) < 1e-9


def products(after, scaling=2.0):
    """scaling * B A by target, worked out in full."""
    return {name: scaling * after[name.replace("lora_A", "lora_B")] @ after[name] for name in after if "lora_A" in name}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("radius", [1e-3, 1e-2])
def test_no_matrix_leaves_the_norm_ball_and_some_reach_its_surface(full, radius):
    _, before, after, model = run(full=full, norm_ball=radius)
    if full:
        shares = [((after[n] - before[n]).norm() / before[n].norm()).item() for n in after]
    else:
        bases = dict(model.named_parameters())
        shares = [
            (mean_nll.norm() / bases[name.replace("lora_A.default", "base_layer")].norm()).item()
            for name, mean_nll in products(after).items()
        ]
    assert max(shares) == pytest.approx(radius, rel=1e-9)
    assert len(shares) > 4


@pytest.mark.parametrize("full", [True, False])
def test_a_ball_that_is_never_left_changes_no_bit(full):
    assert same(run(full=full, dtype=torch.float32)[2], run(full=full, dtype=torch.float32, norm_ball=1e3)[2])


def test_replay_of_nothing_is_no_replay_bit_for_bit():
    general = sequences(num_sequences=5, seed=9)
    with_text = concat_replay(sequences(), general)
    assert len(with_text.labels) == 11
    assert with_text.target_sequences == 6
    assert same(run(dtype=torch.float32)[2], run(data=with_text, dtype=torch.float32, replay=0.0)[2])


@examples(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.floats(0.01, 0.9), st.integers(1, 25), st.integers(0, 9))
def test_replay_leaves_the_target_sequences_and_their_order_and_adds_its_share(batch_size, share, steps, seed):
    own, general = 7, 5
    data = concat_replay(sequences(num_sequences=own), sequences(num_sequences=general, seed=9))
    settings = TrainSettings(lr=1, steps=steps, batch_size=batch_size, replay=share, seed=seed)
    plain = TrainSettings(lr=1, steps=steps, batch_size=batch_size, seed=seed)
    rows = [replay.batch_indices(data, settings, step) for step in range(steps)]
    for step, row in enumerate(rows):
        assert np.array_equal(row[:batch_size], replay.batch_indices(sequences(num_sequences=own), plain, step))
        assert all(own <= sequence < own + general for sequence in row[batch_size:])
    extra = np.concatenate([row[batch_size:] for row in rows])
    expected = steps * batch_size * share / (1 - share)
    assert expected - 1 < len(extra) <= expected + 1e-6
    counts = np.bincount(extra - own, minlength=general)
    assert counts.max() - counts.min() <= 1  # one epoch of it after the other


def test_replayed_tokens_are_trained_on_and_counted():
    data = concat_replay(sequences(), sequences(num_sequences=5, seed=9))
    plain, _, without, _ = run()
    both, _, after, _ = run(data=data, replay=0.5)
    assert not same(after, without)
    assert both.tokens == 2 * plain.tokens == 2 * SETTINGS.steps * 4 * 24
    assert both.steps == plain.steps


def scripted(values):
    """A general text whose NLL is what the list says, evaluation after evaluation."""
    remaining = iter(values)
    return TrainCallbacks(general_nll=lambda: next(remaining))


def test_an_early_stop_keeps_the_last_weights_within_the_bound():
    short = run(steps=2, warmup=0.0)[2]
    bound = EarlyStopSettings(general_nats=0.02, patience=2, num_evals=6)
    result, _, after, _ = run(early_stop=bound, warmup=0.0, callbacks=scripted([3.0, 3.01, 3.019, 3.03, math.nan]))
    assert same(after, short)
    assert (result.steps, result.stopped_at_step, len(result.log)) == (2, 4, 4)
    assert result.tokens == 2 * 4 * 24
    assert [step for step, _ in result.general_rises_nats] == [0, 1, 2, 3, 4]
    assert not result.interrupted


def test_one_evaluation_above_the_bound_is_forgiven_by_patience():
    bound = EarlyStopSettings(general_nats=0.02, patience=2, num_evals=3)
    result, _, after, _ = run(early_stop=bound, callbacks=scripted([3.0, 3.05, 3.0, 3.01]))
    assert same(after, run()[2])
    assert (result.steps, result.stopped_at_step) == (6, None)


def test_a_bound_that_the_first_evaluation_breaks_returns_the_base():
    bound = EarlyStopSettings(general_nats=0.02, patience=1, num_evals=6)
    result, before, after, _ = run(early_stop=bound, callbacks=scripted([3.0, 4.0]))
    assert same(before, after)
    assert (result.steps, result.tokens, result.stopped_at_step) == (0, 0, 1)


def loss_on(data):
    """A function of a model: its mean NLL on the sequences, nats per token."""
    from peftodyssey.models.packed_inputs import packed_inputs

    ids, labels, positions, segments = (torch.from_numpy(getattr(data, name)).long() for name in data.ARRAYS)

    @torch.no_grad()
    def mean_nll(model):
        logits = model(**packed_inputs(model, ids, positions, segments)).logits
        return torch.nn.functional.cross_entropy(
            logits.double().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX
        ).item()

    return mean_nll


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("stop_at", [1, 3, 9])
def test_an_interrupted_training_resumes_with_the_same_bits(tmp_path, full, stop_at):
    """All constraints at once: stopped after so many steps and resumed on a fresh model, against an unbroken run."""
    target = sequences()
    general = loss_on(
        dataclasses.replace(target, labels=(target.labels + 1) % VOCABULARY)
    )  # what is learnt is wrong there
    data = concat_replay(target, sequences(num_sequences=5, seed=9))

    def once(steps=math.inf, checkpoints=None):
        model = random_model(dtype=torch.float64)
        model, trainable = (model, all_trainable(model)) if full else with_lora(model)
        settings = dataclasses.replace(
            SETTINGS, steps=9, lr=0.02, l2_sp=5.0, norm_ball=0.05, replay=0.3, early_stop=EarlyStopSettings(0.005, 2, 9)
        )
        seen = []
        result = train(
            model,
            trainable,
            data,
            settings,
            device="cpu",
            checkpoints=checkpoints,
            callbacks=TrainCallbacks(
                general_nll=lambda: general(model), on_step=seen.append, should_stop=lambda: len(seen) >= steps
            ),
        )
        return result, {name: p.detach().clone() for name, p in trainable.items()}, general(model)

    whole, expected, kept_nll = once()
    rises = dict(whole.general_rises_nats)
    assert 0 < whole.steps < whole.stopped_at_step == len(whole.log) < 9  # or the test would not see an early stop
    assert rises[whole.steps] <= 0.005 < rises[whole.stopped_at_step]
    assert kept_nll - general_start(full, general) == pytest.approx(rises[whole.steps], abs=1e-12)
    once(stop_at, CheckpointSettings(tmp_path, 0.0))
    again, weights, _ = once(checkpoints=CheckpointSettings(tmp_path))
    assert same(expected, weights)
    assert again.general_rises_nats == whole.general_rises_nats
    assert (again.steps, again.tokens, again.stopped_at_step) == (whole.steps, whole.tokens, whole.stopped_at_step)
    assert again.resumed_from == min(stop_at, len(whole.log))


def general_start(full, general):
    """The NLL of the model as it is before any step."""
    model = random_model(dtype=torch.float64)
    return general(model if full else with_lora(model)[0])
