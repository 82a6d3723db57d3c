"""Law 4: a step that runs out of memory is retried with smaller settings and ends where one that fits ends."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.errors import DoesNotFit, TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import host_memory
from peftodyssey.training import checkpoint, grad_accumulation
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

OWN_PROCESS = "PEFTODYSSEY_TEST_OWN_PROCESS"  # set where a test already runs alone
SETTINGS = TrainSettings(lr=5e-3, steps=5, batch_size=4, micro_batch_size=4, warmup=0.2, seed=3)
DATA = {"num_sequences": 6, "seq_len": 120, "documents": (45, 25, 50), "masked_share": 0.3}


def run(full=False, dropout=0.0, state_folder=None, stop_after=None, **changes):
    """A training in float64: its result, its weights, the notes it made."""
    model = random_model(dtype=torch.float64)
    model, trainable = (model, all_trainable(model)) if full else with_lora(model, dropout=dropout)
    notes, done = [], []
    result = train(
        model,
        trainable,
        sequences(**DATA),
        dataclasses.replace(SETTINGS, **changes),
        device="cpu",
        checkpoints=CheckpointSettings(state_folder) if state_folder else None,
        callbacks=TrainCallbacks(
            on_note=notes.append,
            on_step=done.append,
            should_stop=lambda: stop_after is not None and len(done) >= stop_after,
        ),
    )
    assert not any("forward" in vars(module) for module in model.modules())
    return result, {name: p.detach().clone() for name, p in trainable.items()}, notes


reference = functools.cache(run)  # trainings that fit, each once; nothing changes what they return


def distance(left, right) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


class SmallGpu:
    """Simulates a small GPU: a forward pass that saves more than `limit_bytes` for backward runs out of memory.

    Not in the first `after` passes, so that something has been added to the gradients by then.
    """

    def __init__(self, monkeypatch, limit_bytes=None, error=torch.OutOfMemoryError, after=1):
        self.original, self.limit_bytes, self.error, self.after = (
            grad_accumulation.token_nll_sums,
            limit_bytes,
            error,
            after,
        )
        self.kept: list[tuple[int, int]] = []  # sequences of each pass, bytes it kept
        monkeypatch.setattr(grad_accumulation, "token_nll_sums", self)

    def __call__(self, model, backbone_and_head, inputs, labels, *rest):
        self.kept.append((len(labels[0]), 0))

        def keep(tensor):
            count, size = self.kept[-1]
            self.kept[-1] = (count, size + tensor.numel() * tensor.element_size())
            if self.limit_bytes is not None and self.kept[-1][1] > self.limit_bytes and len(self.kept) > self.after:
                raise self.error("DefaultCPUAllocator: CUDA out of memory")
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return self.original(model, backbone_and_head, inputs, labels, *rest)


@functools.cache
def room_for(gradient_checkpointing: str, dropout: float = 0.0) -> int:
    """Bytes in which one sequence's forward pass finds room under a policy, and under none that keeps more."""
    with pytest.MonkeyPatch.context() as patch:
        gpu, sizes = SmallGpu(patch), {}
        for name in ("none", "selective", "full"):
            run(steps=3, micro_batch_size=1, gradient_checkpointing=name, dropout=dropout)
            sizes[name] = max(size for _, size in gpu.kept)
            gpu.kept.clear()
    assert sizes["none"] > 1.1 * sizes["selective"] > 1.2 * sizes["full"]
    return int(sizes[gradient_checkpointing] * 1.02)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("full", [True, False])
def test_a_micro_batch_that_does_not_fit_is_halved_and_nothing_is_applied_twice(monkeypatch, full, error):
    expected = reference(full=full, micro_batch_size=1)
    gpu = SmallGpu(monkeypatch, error=error)
    run(full=full, steps=1, micro_batch_size=2)
    gpu.limit_bytes, gpu.kept = min(size for _, size in gpu.kept) - 1, []
    result, weights, notes = run(full=full, micro_batch_size=2)
    assert [count for count, _ in gpu.kept] == [2, 2] + [1] * 20
    assert result.memory_settings.micro_batch_size == 1
    assert distance(weights, expected[1]) < 1e-10
    assert [r.loss_nats for r in result.log] == pytest.approx([r.loss_nats for r in expected[0].log], rel=1e-10)
    assert list(result.out_of_memory) == notes
    assert notes[-1].startswith("step 1: one micro-batch of 2 sequences")
    assert notes[-1].endswith("4 x 1")


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("enough", ["selective", "full"])
def test_where_one_sequence_does_not_fit_less_is_kept(monkeypatch, enough, dropout):
    """The policy alone changes, so that dropout draws the same numbers: the very same training."""
    expected = reference(micro_batch_size=1, dropout=dropout)
    SmallGpu(monkeypatch, limit_bytes=room_for(enough, dropout))
    result, weights, notes = run(micro_batch_size=1, dropout=dropout)
    assert result.memory_settings == MemorySettings(1, enough)
    assert distance(weights, expected[1]) < 1e-10
    tried = ["none", "selective", "full"][: 2 + (enough == "full")]
    for note, failed, fallback in zip(notes, tried[:-1], tried[1:], strict=True):
        assert note.startswith("step 1: one sequence with gradient checkpointing " + failed)
        assert note.endswith("gradient checkpointing " + fallback)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_first_halves_then_less_is_kept(monkeypatch, dropout):
    """Dropout masks depend on the sequence alone, so that the same holds with dropout."""
    expected = reference(dropout=dropout)
    SmallGpu(monkeypatch, limit_bytes=room_for("full", dropout))
    _, weights, notes = run(dropout=dropout)
    assert [note.split("continues with ")[1] for note in notes] == [
        "2 x 2",
        "4 x 1",
        "gradient checkpointing selective",
        "gradient checkpointing full",
    ]
    assert distance(weights, expected[1]) < 1e-10


def test_out_of_memory_in_the_middle_repeats_that_step_alone(monkeypatch):
    expected = reference()
    gpu = SmallGpu(monkeypatch, limit_bytes=0, after=3)

    def once(*arguments):
        gpu.limit_bytes = 0 if len(gpu.kept) == 3 else None
        return SmallGpu.__call__(gpu, *arguments)

    monkeypatch.setattr(grad_accumulation, "token_nll_sums", once)
    result, weights, notes = run()
    assert len(notes) == 1
    assert notes[0].startswith("step 4: one micro-batch of 4 sequences")
    assert notes[0].endswith("2 x 2")
    assert [count for count, _ in gpu.kept] == [4, 4, 4, 4, 2, 2, 2, 2]
    assert distance(weights, expected[1]) < 1e-10
    assert result.memory_settings.gradient_checkpointing == "none"


def test_a_sequence_that_does_not_fit_at_all_is_an_error_with_a_next_step(monkeypatch):
    SmallGpu(monkeypatch, limit_bytes=0, after=0)
    with pytest.raises(TrainingError, match="one sequence does not fit") as raised:
        run()
    assert "seq_len" in raised.value.next_step


def test_other_errors_are_not_taken_for_out_of_memory(monkeypatch):
    SmallGpu(monkeypatch, limit_bytes=0, after=0, error=ValueError)
    with pytest.raises(ValueError, match="out of memory"):
        run()
    assert not host_memory.is_out_of_memory(DoesNotFit("a plan says so"))
    assert not host_memory.is_out_of_memory(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert host_memory.is_out_of_memory(raised.value)


def test_a_resumed_training_keeps_the_reduced_settings(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        SmallGpu(patch, limit_bytes=room_for("selective", 0.3), after=0)
        unbroken = run(dropout=0.3)
        first, _, notes = run(dropout=0.3, state_folder=tmp_path, stop_after=2)
    assert first.interrupted
    assert len(notes) == 3
    gpu = SmallGpu(monkeypatch)
    result, weights, again = run(dropout=0.3, state_folder=tmp_path)
    assert result.resumed_from == 2
    assert again == []
    assert result.memory_settings == MemorySettings(1, "selective")
    assert {count for count, _ in gpu.kept} == {1}
    assert result.out_of_memory == tuple(notes)
    assert all(torch.equal(weights[name], unbroken[1][name]) for name in weights)


def test_settings_that_always_fitted_do_not_bind_a_later_start(tmp_path):
    """Where memory never ran out, the settings are those of the new plan, which may have more memory."""
    run(micro_batch_size=1, gradient_checkpointing="full", state_folder=tmp_path, stop_after=2)
    saved = json.loads((tmp_path / checkpoint.STATE_FILE).read_text())
    assert saved["memory_settings"]["gradient_checkpointing"] == "full"
    result, _, _ = run(state_folder=tmp_path)
    assert (result.resumed_from, result.memory_settings) == (2, MemorySettings(4, "none"))


def test_the_fallbacks_in_their_order():
    settings, fallbacks = MemorySettings(6, "none"), []
    while settings := settings.next_fallback(on_gpu=True):
        fallbacks.append(settings)
    assert fallbacks == [
        MemorySettings(3, "none"),
        MemorySettings(2, "none"),
        MemorySettings(1, "none"),
        MemorySettings(1, "selective"),
        MemorySettings(1, "full"),
        MemorySettings(1, "full", True),
    ]
    assert MemorySettings(1, "full").next_fallback(on_gpu=False) is None
    assert (
        MemorySettings(1, "full").next_fallback(on_gpu=True).describe_fallback(MemorySettings(1, "full"), 4)[1]
        == "the layers' inputs in host memory"
    )
    assert MemorySettings(2, "full").most_conservative(MemorySettings(4, "selective", True)) == MemorySettings(
        2, "full", True
    )


def filled(size_bytes: int) -> torch.Tensor:
    return torch.ones(size_bytes // 4)


@pytest.fixture(params=["counted", "sampled"])
def how_measured(request, monkeypatch):
    """By Linux's own count where there is one, and by sampling."""
    if request.param == "sampled":
        monkeypatch.setattr(host_memory, "CLEAR_REFS", Path("/nowhere/at/all"))
    elif not host_memory._reset_peak():
        pytest.skip("the system does not count anew")


def test_the_highest_resident_size_is_seen_and_forgotten(how_measured):
    with host_memory.peak_rss() as peak_bytes:
        before = peak_bytes()
        for size in (128 << 20, 512 << 20, 0):
            filled(size).exp_()
            assert peak_bytes() - before == pytest.approx(size, abs=32 << 20)


def test_freed_pieces_of_the_heap_are_given_back():
    """Tensors of a few MiB lie in glibc's heap and stay resident behind one that lives: until they are given back."""
    pieces = [filled(2 << 20) for _ in range(200)]
    every_20th = pieces[::20]
    gc.collect()
    full = host_memory.resident_bytes()
    del pieces
    host_memory.release_memory(torch.device("cpu"))
    assert full - host_memory.resident_bytes() > 300 << 20
    assert len(every_20th) == 10


@pytest.mark.slow
def test_a_stated_budget_is_held_on_the_cpu_for_real():
    """Resident memory is measured: four sequences exceed the budget and one does not; nothing is mocked.

    It runs in a process of its own, because heaps that other tests have used change what is resident.
    """
    if OWN_PROCESS not in os.environ:
        node = f"{__file__}::test_a_stated_budget_is_held_on_the_cpu_for_real"
        child = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow", node],
            env={**os.environ, OWN_PROCESS: "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "1 passed" in child.stdout, child.stdout + child.stderr
        return
    big = {"num_sequences": 4, "seq_len": 512, "documents": (250, 12, 250)}

    def resident_training(**changes):
        model, trainable = with_lora(
            random_model(dtype=torch.float64, intermediate_size=2048, max_position_embeddings=512)
        )
        settings = dataclasses.replace(SETTINGS, steps=2, **changes)
        with host_memory.peak_rss() as peak_bytes:
            host_memory.release_memory(torch.device("cpu"))
            peak_bytes()
            result = train(model, trainable, sequences(**big), settings, device="cpu")
            return result, {name: p.detach().clone() for name, p in trainable.items()}, peak_bytes()

    small, _, low = resident_training(micro_batch_size=1)
    large, expected, high = resident_training(micro_batch_size=4)
    assert high - low > 64 << 20
    assert small.out_of_memory == large.out_of_memory == ()
    result, weights, _ = resident_training(micro_batch_size=4, budget_bytes=(low + high) // 2)
    assert result.memory_settings.micro_batch_size < 4
    assert result.out_of_memory[0].startswith("step 1: one micro-batch of 4 sequences did not fit ")
    assert " resident)" in result.out_of_memory[0]
    assert all(
        sentence.startswith("step 1: ") for sentence in result.out_of_memory
    )  # one overshoot condemns no later step
    assert result.memory_settings.gradient_checkpointing == "none"
    assert distance(weights, expected) < 1e-10
    with pytest.raises(TrainingError, match="in use without it"):
        resident_training(micro_batch_size=1, budget_bytes=1 << 20)
