"""The learning-rate curves are those of transformers' get_scheduler, step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from peftodyssey.training.schedule import lr_multiplier, wsd_decay_steps
from peftodyssey.training.settings import TrainSettings

THEIRS = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "wsd": "warmup_stable_decay",
}


@pytest.mark.parametrize("schedule", THEIRS)
@given(steps=st.integers(1, 60), warmup=st.floats(0, 1))
def test_equals_transformers(schedule, steps, warmup):
    settings = TrainSettings(lr=1.0, steps=steps, batch_size=1, warmup=warmup, schedule=schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    extra = {"num_decay_steps": wsd_decay_steps(steps, settings.warmup_steps), "decay_type": "linear"}
    theirs = get_scheduler(
        THEIRS[schedule], optimizer, settings.warmup_steps, steps, extra if schedule == "wsd" else None
    )
    for step in range(steps):
        ours = lr_multiplier(step, steps=steps, warmup_steps=settings.warmup_steps, schedule=schedule)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_wsd_holds_its_peak_and_falls_over_the_last_fifth():
    curve = [lr_multiplier(step, steps=100, warmup_steps=10, schedule="wsd") for step in range(100)]
    assert curve[10:81] == [1.0] * 71
    assert curve[90] == 0.5
    assert curve[99] == pytest.approx(0.05)


def test_a_training_of_one_step_is_not_all_warm_up():
    assert TrainSettings(lr=1.0, steps=1, batch_size=1, warmup=0.5).warmup_steps == 0


def test_settings_say_all_that_is_wrong():
    problems = TrainSettings(lr=0, steps=0, batch_size=1, schedule="square", warmup=2.0, precision="fp8").problems()
    assert len(problems) == 5


def test_digest_sees_what_changes_the_weights_only():
    settings = {"lr": 1e-3, "steps": 5, "batch_size": 4}
    base = TrainSettings(**settings).digest()
    assert (
        TrainSettings(**settings, micro_batch_size=2, gradient_checkpointing="full", eval_at_steps=(5,)).digest()
        == base
    )
    assert TrainSettings(**settings, weight_decay=0.1).digest() != base
