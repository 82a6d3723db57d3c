"""Law 6: stop anywhere, resume, and the weights have the same bits; a broken state is noticed, a foreign
one refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.errors import StoreError, TrainingError
from peftodyssey.training import checkpoint
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

STEPS = 8
SETTINGS = TrainSettings(lr=1e-2, steps=STEPS, batch_size=4, micro_batch_size=2, seed=5)
CASES = {
    "full": {"schedule": "cosine", "warmup": 0.25},
    "lora with dropout": {"schedule": "cosine", "weight_decay": 0.1},
    "wsd": {"schedule": "wsd", "warmup": 0.25},
    "fp16 with a scaled loss": {"schedule": "linear", "precision": "fp16"},
}


def run(case: str, state_folder: Path | None = None, stop_after: int | None = None, data=None, **extra):
    """A training from fresh weights, as a new process would begin it."""
    dropout = 0.3 if "dropout" in case else 0.0
    model = random_model()
    model, trainable = (model, all_trainable(model)) if case == "full" else with_lora(model, dropout=dropout)
    torch.manual_seed(len(case) + (stop_after or 0))  # whatever the process drew before must not matter
    numbers = dataclasses.replace(SETTINGS, **CASES[case], **extra)
    done = []
    result = train(
        model,
        trainable,
        data or sequences(masked_share=0.2),
        numbers,
        device="cpu",
        checkpoints=CheckpointSettings(state_folder) if state_folder else None,
        callbacks=TrainCallbacks(
            on_step=done.append, should_stop=lambda: stop_after is not None and len(done) >= stop_after
        ),
    )
    return result, {name: p.detach().clone() for name, p in trainable.items()}


def science(result):
    return [dataclasses.replace(record, seconds=0.0) for record in result.log]


@pytest.fixture(scope="module")
def unbroken():
    return {case: run(case) for case in CASES}


@pytest.mark.parametrize("case", CASES)
@given(stops=st.lists(st.integers(0, STEPS), min_size=1, max_size=3))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_law_6_resume_gives_the_same_bits(unbroken, case, stops):
    expected, weights = unbroken[case]
    with tempfile.TemporaryDirectory() as folder:
        begun = 0
        for stop in stops:
            result, _ = run(case, Path(folder), stop_after=stop)
            assert result.resumed_from == begun
            begun = min(begun + stop, STEPS)
            assert result.steps == begun
            assert result.interrupted == (begun < STEPS)
            if not result.interrupted:
                begun = result.resumed_from  # a finished training leaves the state of its last stop
        result, resumed = run(case, Path(folder))
    assert not result.interrupted
    assert science(result) == science(expected)
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)


def test_states_by_time_are_whole_and_only_the_last_is_kept(tmp_path, unbroken):
    model, trainable = with_lora(random_model(), dropout=0.3)
    numbers = dataclasses.replace(SETTINGS, **CASES["lora with dropout"])

    def die(record):
        if record.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            model,
            trainable,
            sequences(masked_share=0.2),
            numbers,
            device="cpu",
            checkpoints=CheckpointSettings(tmp_path, every_s=0.0),
            callbacks=TrainCallbacks(on_step=die),
        )
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    result, weights = run("lora with dropout", tmp_path)
    assert result.resumed_from == 5
    assert all(torch.equal(weights[name], unbroken["lora with dropout"][1][name]) for name in weights)


KILLED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from support.trainings import sequences, random_model, with_lora
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings
torch.set_num_threads(1)
model, trainable = with_lora(random_model(), dropout=0.3)
numbers = TrainSettings(lr=1e-3, steps=100000, batch_size=1, seed=5)
train(model, trainable, sequences(), numbers, device="cpu", checkpoints=CheckpointSettings(Path(sys.argv[2]), 0.0),
      callbacks=TrainCallbacks(on_step=lambda record: print(record.step, flush=True)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.011, 0.023, 0.04])
def test_kill_9_leaves_a_whole_state(tmp_path, delay_s):
    here = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(here), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    step = 0
    for line in process.stdout:
        step = int(line)
        if step == 20:
            time.sleep(delay_s)
            os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resume_digest = json.loads((tmp_path / checkpoint.STATE_FILE).read_text())["resume_digest"]
    state, note = checkpoint.read(tmp_path, resume_digest)
    assert note == ""
    assert state.step in (step - 1, step)


def damage(folder: Path, how: str) -> None:
    tensors = next(folder.glob("state-*.safetensors"))
    if how == "bit flipped":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif how == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif how == "missing":
        tensors.unlink()
    elif how == "half a json":
        text = (folder / checkpoint.STATE_FILE).read_text()
        (folder / checkpoint.STATE_FILE).write_text(text[: len(text) // 2])
    else:
        (folder / checkpoint.STATE_FILE).write_text("[]")


@pytest.mark.parametrize("how", ["bit flipped", "truncated", "missing", "half a json", "a list"])
def test_a_damaged_state_is_named_and_training_starts_over(tmp_path, unbroken, how):
    run("wsd", tmp_path, stop_after=3)
    damage(tmp_path, how)
    result, weights = run("wsd", tmp_path)
    assert result.resumed_from == 0
    assert "damaged" in result.resume_note
    assert all(torch.equal(weights[name], unbroken["wsd"][1][name]) for name in weights)


@pytest.mark.parametrize("other", [{"weight_decay": 0.3}, {"data": sequences(seed=9)}])
def test_the_state_of_another_training_is_refused(tmp_path, other):
    run("wsd", tmp_path, stop_after=3)
    with pytest.raises(TrainingError, match="belongs to other settings"):
        run("wsd", tmp_path, **other)


def test_another_micro_batch_goes_on(tmp_path):
    run("wsd", tmp_path, stop_after=3)
    assert run("wsd", tmp_path, micro_batch_size=4)[0].resumed_from == 3


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        run("wsd", tmp_path / "file" / "state", stop_after=1)
