"""A stem is trained once: branches of several budgets end with the bits of trainings from step 0."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.multi_lora.adapters import adapter_of
from peftodyssey.multi_lora.trainer import Member, train_adapters
from peftodyssey.training import checkpoint, stem
from peftodyssey.training.checkpoint import CheckpointSettings, StemCheckpoint
from peftodyssey.training.loop import resume_digest, stem_digest, train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

BUDGETS = (5, 10, 15)  # steps; they decay from step 4, 8 and 12 on
SETTINGS = TrainSettings(
    lr=1e-2, steps=5, batch_size=4, micro_batch_size=2, seed=5, schedule="wsd", warmup_amount=2, weight_decay=0.01
)


def training(kind: str, steps: int, folder: Path, shared: Path | None, stop_after: int | None = None, **changes):
    """A training of one budget, as a new process would begin it: its log and weights."""
    model = random_model()
    model, trainable = (model, all_trainable(model)) if kind == "full" else with_lora(model, dropout=0.3)
    torch.manual_seed(steps)  # whatever the process drew before must not matter
    own = StemCheckpoint(shared, continues=steps < BUDGETS[-1]) if shared else None
    done = []
    result = train(
        model,
        trainable,
        sequences(masked_share=0.2),
        dataclasses.replace(SETTINGS, steps=steps, **changes),
        device="cpu",
        checkpoints=CheckpointSettings(folder / str(steps), None, own),
        callbacks=TrainCallbacks(
            on_step=done.append, should_stop=lambda: stop_after is not None and len(done) >= stop_after
        ),
    )
    return result, {name: p.detach().clone() for name, p in trainable.items()}


def same(one, other) -> bool:
    log, other_log = (
        [dataclasses.replace(record, seconds=0.0) for record in result.log] for result in (one[0], other[0])
    )
    return log == other_log and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("kind", ["full", "lora with dropout"])
def test_a_branch_has_the_bits_of_a_training_of_its_budget(tmp_path, kind):
    for steps, start in zip(BUDGETS, (0, 4, 8), strict=True):
        branch = training(kind, steps, tmp_path / "branches", tmp_path / "stem")
        alone = training(kind, steps, tmp_path / "alone", None)
        assert (branch[0].resumed_from, alone[0].resumed_from) == (start, 0)
        assert same(branch, alone)
        assert [record.lr < SETTINGS.lr for record in branch[0].log[2:]] == [n > 0.8 * steps for n in range(2, steps)]


def test_a_branch_that_was_stopped_goes_on_from_its_own_state(tmp_path):
    training("full", 5, tmp_path, tmp_path / "stem")
    stopped = training("full", 10, tmp_path, tmp_path / "stem", stop_after=2)
    assert (stopped[0].interrupted, stopped[0].resumed_from, len(stopped[0].log)) == (True, 4, 6)
    resumed = training("full", 10, tmp_path, tmp_path / "stem")
    assert resumed[0].resumed_from == 6
    assert same(resumed, training("full", 10, tmp_path / "alone", None))


@pytest.mark.parametrize(
    "change",
    [{"lr": 2e-2}, {"seed": 6}, {"warmup_amount": 3}, {"grad_clip": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_another_training_does_not_start_from_a_stem(tmp_path, change):
    training("full", 5, tmp_path, tmp_path / "stem")
    assert training("full", 10, tmp_path, tmp_path / "stem", **change)[0].resumed_from == 0


def test_a_stem_that_is_damaged_or_beyond_the_decay_is_not_used(tmp_path):
    training("full", 10, tmp_path, tmp_path / "stem")
    assert training("full", 5, tmp_path, tmp_path / "stem")[0].resumed_from == 0  # its decay begins before
    assert json.loads((tmp_path / "stem" / "state.json").read_text())["step"] == 8  # nor is it replaced
    for file in (tmp_path / "stem").glob("*.safetensors"):
        file.write_bytes(b"")
    assert training("full", 15, tmp_path, tmp_path / "stem")[0].resumed_from == 0


def group(base, steps: int, folder: Path, shared: Path | None):
    """Two members of one budget that train together."""
    members = []
    for number in range(2):
        model, trainable = with_lora(base, dropout=0.2 * number)
        settings, data = dataclasses.replace(SETTINGS, steps=steps, seed=number), sequences(seed=number)
        own = StemCheckpoint(shared / str(number), continues=True) if shared else None
        resume, of_stem = (digest(trainable, data, settings) for digest in (resume_digest, stem_digest))
        start = adapter_of(model)
        members.append(Member(settings, data, start, folder / str(number), resume, stem=own, stem_digest=of_stem))
        base = model.unload()
        vars(base).pop("peft_config", None)
    assert train_adapters(base, members, device="cpu")
    return members


def test_members_branch_together_with_the_same_bits(tmp_path):
    ended = {}
    for shared in (tmp_path / "stem", None):
        for steps in BUDGETS:
            torch.manual_seed(0)
            name = "alone" if shared is None else "branches"
            ended[name, steps] = group(random_model(), steps, tmp_path / name / str(steps), shared)
    for steps, start in zip(BUDGETS, (0, 4, 8), strict=True):
        for branch, alone in zip(ended["branches", steps], ended["alone", steps], strict=True):
            assert (branch.resumed_from, alone.resumed_from) == (start, 0)
            assert [r.loss_nats for r in branch.log] == [r.loss_nats for r in alone.log]
            for target, factor in branch.weights.lora_A.items():
                assert torch.equal(factor, alone.weights.lora_A[target])
                assert torch.equal(branch.weights.lora_B[target], alone.weights.lora_B[target])


def test_a_stem_that_serves_no_larger_budget_is_not_saved(tmp_path):
    training("full", 15, tmp_path, tmp_path / "stem")
    assert checkpoint.saved_digest(tmp_path / "stem") is None
    assert not stem.is_due(StemCheckpoint(tmp_path, True), dataclasses.replace(SETTINGS, steps=10), 7)
