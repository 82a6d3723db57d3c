"""Law 3 for multi-LoRA: every member ends where its solo training ends, whichever others join, fail or stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.trainings import random_model, sequences

from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.multi_lora import adamw
from peftodyssey.multi_lora.adapters import adapter_of
from peftodyssey.multi_lora.state import PADDED_RANKS
from peftodyssey.multi_lora.trainer import Member, _MultiLoraTrainer, train_adapters
from peftodyssey.recipe.cell import QuantSpec
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import resume_digest, train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

SETTINGS = TrainSettings(lr=1e-2, steps=6, batch_size=4, micro_batch_size=2, warmup=0.2, weight_decay=0.01)
MEMBERS = [
    {"rank": 1, "lr": 1e-2, "seed": 0, "steps": 6},
    {"rank": 2, "lr": 3e-3, "seed": 1, "steps": 4},
    {"rank": 4, "lr": 2e-2, "seed": 2, "steps": 6, "dropout": 0.2},
    {"rank": 8, "lr": 1e-3, "seed": 3, "steps": 5, "targets": ["q_proj"]},
    {"rank": 16, "lr": 1e-2, "seed": 4, "steps": 6, "rslora": True},
    {"rank": 20, "lr": 5e-3, "seed": 5, "steps": 2, "dropout": 0.4},
    {"rank": 32, "lr": 1e-2, "seed": 6, "steps": 6, "schedule": "constant"},
    {"rank": 32, "lr": 2e-2, "seed": 7, "steps": 6, "grad_clip": 0.0},
]


def settings_of(options: dict, **changes) -> TrainSettings:
    values = {key: options[key] for key in ("lr", "seed", "steps", "schedule", "grad_clip") if key in options}
    return dataclasses.replace(SETTINGS, **values, **changes)


def sequences_of(options: dict):
    return sequences(
        seed=options["seed"], num_sequences=5 + options["seed"] % 2, masked_share=0.2 * (options["seed"] % 3)
    )


def attached(base, options: dict):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(100 + options["seed"])
    model = get_peft_model(
        base,
        LoraConfig(
            r=options["rank"],
            lora_alpha=2 * options["rank"],
            lora_dropout=options.get("dropout", 0.0),
            use_rslora=options.get("rslora", False),
            target_modules=options.get("targets", "all-linear"),
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=False,
    )
    if next(base.parameters()).dtype != torch.float64:
        for p in model.parameters():
            p.data = p.data.float() if p.requires_grad else p.data
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def detached(model):
    base = model.unload()
    vars(base).pop("peft_config", None)
    vars(base).pop("_hf_peft_config_loaded", None)
    return base.requires_grad_(False)


def solo(base, options: dict, folder: Path | None = None, **changes):
    model, trainable = attached(base, options)
    checkpoints = CheckpointSettings(folder) if folder else None
    result = train(
        model, trainable, sequences_of(options), settings_of(options, **changes), device="cpu", checkpoints=checkpoints
    )
    ended = adapter_of(model)
    detached(model)
    return ended, result


def members_of(base, group: list[dict], root: Path, **changes) -> list[Member]:
    members = []
    for number, options in enumerate(group):
        model, trainable = attached(base, options)
        settings, data = settings_of(options, **changes), sequences_of(options)
        members.append(
            Member(settings, data, adapter_of(model), root / str(number), resume_digest(trainable, data, settings))
        )
        detached(model)
    return members


def end_of(base, options: dict, folder: Path, **changes):
    """What the member left, read by a training of its own that has nothing more to do."""
    return solo(base, options, folder, **changes)


def distance(left, right) -> float:
    """Of all numbers of two adapters, relative to the length of the second."""
    one, other = (
        torch.cat([x.reshape(-1) for t in right.lora_A for x in (options.lora_A[t], options.lora_B[t])])
        for options in (left, right)
    )
    return ((one - other).norm() / other.norm()).item()


def base_of(kind: str):
    if kind == "nf4":
        return models.load(source.resolve("random/tiny-llama"), precision="fp32", quant=QuantSpec("nf4", True))
    family, dtype = kind.split()
    return random_model(family, dtype=getattr(torch, dtype)).train()


@pytest.mark.parametrize(
    ("kind", "relative"),
    [
        ("llama float64", 1e-10),
        ("gpt2 float64", 1e-10),
        ("gemma2 float64", 1e-10),
        ("llama float32", 1e-5),
        ("nf4", 2e-5),
    ],
)
@pytest.mark.parametrize("micro_batch_size", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_every_member_ends_where_its_solo_run_ends(tmp_path, kind, relative, micro_batch_size):
    base = base_of(kind)
    one = "c_attn" if "gpt2" in kind else "q_proj"
    group = [{**options, "targets": [one]} if "targets" in options else options for options in MEMBERS]
    members = members_of(base, group, tmp_path, micro_batch_size=micro_batch_size)
    assert train_adapters(base, members, device="cpu")
    assert not any("forward" in vars(module) for module in base.modules())
    for number, (options, member) in enumerate(zip(group, members, strict=True)):
        alone, result = solo(base, options, micro_batch_size=4)
        ended, resumed = end_of(base, options, tmp_path / str(number), micro_batch_size=micro_batch_size)
        assert resumed.resumed_from == options["steps"]
        assert distance(ended, alone) < relative, options
        assert [r.tokens for r in member.log] == [r.tokens for r in result.log]
        for column in ("loss_nats", "grad_norm", "lr"):
            assert [getattr(r, column) for r in member.log] == pytest.approx(
                [getattr(r, column) for r in result.log], rel=relative
            )


@pytest.mark.parametrize("gradient_checkpointing", ["selective", "full"])
def test_recomputation_gives_the_same_training(tmp_path, gradient_checkpointing):
    base = base_of("llama float64")
    group = MEMBERS[:3]
    for name in ("none", gradient_checkpointing):
        assert train_adapters(base, members_of(base, group, tmp_path / name, gradient_checkpointing=name), device="cpu")
    for number, options in enumerate(group):
        one, other = (
            end_of(base, options, tmp_path / name / str(number), gradient_checkpointing=name)[0]
            for name in ("none", gradient_checkpointing)
        )
        assert distance(one, other) < 1e-12


def test_a_member_that_diverges_leaves_the_others_alone(tmp_path):
    """The same bits until it leaves; afterwards what they would have been alone."""
    base = base_of("llama float32")
    group = [{**options, "steps": 6} for options in MEMBERS]
    bad = [{**options, "lr": 1e6} if number == 3 else options for number, options in enumerate(group)]
    logs: dict[str, list] = {}
    for name, multi_lora in (("good", group), ("bad", bad)):
        members = members_of(base, multi_lora, tmp_path / name, warmup=0.0)
        logs[name] = [[] for _ in members]
        for number, member in enumerate(members):
            member.on_step = logs[name][number].append
        assert train_adapters(base, members, device="cpu")
        assert [member.failed is not None for member in members] == [name == "bad" and n == 3 for n in range(8)]
    died = len(logs["bad"][3])
    assert 0 < died < 5
    for number in (0, 1, 2, 4, 5, 6, 7):
        good, worse = logs["good"][number], logs["bad"][number]
        assert [r.loss_nats for r in good[: died + 1]] == [r.loss_nats for r in worse[: died + 1]]
        ended, alone = (
            end_of(base, group[number], tmp_path / "bad" / str(number), warmup=0.0)[0],
            solo(base, group[number], warmup=0.0)[0],
        )
        assert distance(ended, alone) < 1e-5


@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_and_resumed_it_has_the_same_bits(tmp_path, stop_after):
    base = base_of("llama float32")
    assert train_adapters(base, members_of(base, MEMBERS, tmp_path / "whole"), device="cpu")
    calls = iter(range(100))
    broken = members_of(base, MEMBERS, tmp_path / "parts")
    assert not train_adapters(
        base, broken, device="cpu", callbacks=TrainCallbacks(should_stop=lambda: next(calls) >= stop_after)
    )
    assert train_adapters(base, members_of(base, MEMBERS, tmp_path / "parts"), device="cpu")
    for number, options in enumerate(MEMBERS):
        whole, parts = (end_of(base, options, tmp_path / name / str(number))[0] for name in ("whole", "parts"))
        assert distance(whole, parts) == 0.0, options


def test_members_that_end_are_handed_over_while_the_others_wait(tmp_path):
    """By end: who, on a bare base. What is done there, random numbers included, leaves no trace in the others."""
    base, ends = base_of("llama float32"), []
    quiet = members_of(base, MEMBERS, tmp_path / "quiet")
    assert train_adapters(base, quiet, device="cpu")
    busy = members_of(base, MEMBERS, tmp_path / "busy")

    def on_end(ended):
        assert not any("forward" in vars(module) for module in base.modules())
        ends.append([busy.index(member) for member in ended])
        model, _ = attached(base, MEMBERS[0])
        model.eval()(input_ids=torch.arange(8)[None]).logits.sum().backward()
        detached(model).zero_grad()
        torch.manual_seed(99)

    assert train_adapters(base, busy, device="cpu", on_end=on_end)
    assert ends == [[5], [1], [3], [0, 2, 4, 6, 7]]
    for one, other in zip(quiet, busy, strict=True):
        assert distance(one.weights, other.weights) == 0.0
        assert [r.loss_nats for r in one.log] == [r.loss_nats for r in other.log]


def test_an_error_at_an_end_costs_no_step(tmp_path):
    base = base_of("llama float32")
    quiet = members_of(base, MEMBERS, tmp_path / "quiet")
    assert train_adapters(base, quiet, device="cpu")

    def fail(ended):
        raise RuntimeError("cannot be finished")

    with pytest.raises(RuntimeError, match="cannot be finished"):
        train_adapters(base, members_of(base, MEMBERS, tmp_path / "broken"), device="cpu", on_end=fail)
    rest = [number for number in range(8) if number != 5]  # as the first end leaves them
    again = members_of(base, MEMBERS, tmp_path / "broken")
    assert train_adapters(base, [again[number] for number in rest], device="cpu")
    for number in rest:
        assert again[number].resumed_from == MEMBERS[5]["steps"]
        assert distance(quiet[number].weights, again[number].weights) == 0.0


def test_members_resume_from_trainings_of_them_alone(tmp_path):
    """Checkpoints are those of separate trainings: some begun alone, some finished, some not begun."""
    base = base_of("llama float64")
    solo(base, MEMBERS[1], tmp_path / "1")
    model, trainable = attached(base, MEMBERS[0])
    calls = iter(range(100))
    train(
        model,
        trainable,
        sequences_of(MEMBERS[0]),
        settings_of(MEMBERS[0]),
        device="cpu",
        checkpoints=CheckpointSettings(tmp_path / "0"),
        callbacks=TrainCallbacks(should_stop=lambda: next(calls) >= 2),
    )
    detached(model)
    members = members_of(base, MEMBERS[:3], tmp_path)
    assert train_adapters(base, members, device="cpu")
    for number, options in enumerate(MEMBERS[:3]):
        assert distance(end_of(base, options, tmp_path / str(number))[0], solo(base, options)[0]) < 1e-10


def test_evaluations_see_the_member_alone(tmp_path):
    base = base_of("llama float64")
    group = [{**MEMBERS[0]}, {**MEMBERS[2], "dropout": 0.0}, {**MEMBERS[4]}]
    members = members_of(base, group, tmp_path)
    seen = []

    def on_eval(index, step, tokens, adapter):
        model, _ = attached(base, group[1])
        seen.append((index, step, tokens, model(input_ids=torch.arange(8)[None]).logits.sum().item()))
        detached(model)

    members[1].settings = dataclasses.replace(members[1].settings, eval_at_steps=(2, 4))
    members[1].on_eval = on_eval
    multi_lora = _MultiLoraTrainer(base, members, torch.device("cpu"), TrainCallbacks())
    assert [bucket.rank for bucket in multi_lora.banks.buckets] == [rank for rank in PADDED_RANKS if rank in (4, 16)]
    assert train_adapters(base, members, device="cpu")
    assert [(index, step) for index, step, *_ in seen] == [(0, 2), (1, 4)]
    first, _ = attached(base, group[1])
    expected = first(input_ids=torch.arange(8)[None]).logits.sum().item()
    detached(first)
    assert all(value == expected for *_, value in seen)


def test_padding_stays_zero(tmp_path, monkeypatch):
    base, seen = base_of("llama float32"), []
    original = adamw.update

    def update(banks, *rest):
        (bucket,) = banks.buckets
        for target in bucket.offsets:
            for matrix in (bucket.grads, bucket.params, *bucket.moments):
                assert bucket.lora_A(target, matrix)[0, 1:].abs().max() == 0
                assert bucket.lora_B(target, matrix)[0, :, 1:].abs().max() == 0
            seen.append(bucket.lora_B(target, bucket.grads)[0, :, :1].abs().max().item())
        original(banks, *rest)

    monkeypatch.setattr(adamw, "update", update)
    assert train_adapters(base, members_of(base, [MEMBERS[0], {**MEMBERS[2], "dropout": 0.0}], tmp_path), device="cpu")
    assert min(seen) > 0
