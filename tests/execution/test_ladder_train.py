"""A ladder trained: the same bits after a stop or a kill at any step, rungs that transformers loads, usable in a
recipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from peftodyssey.errors import InputError, Interrupted
from peftodyssey.jobs.context import JobContext, JobOptions
from peftodyssey.jobs.pretrain import pretrain
from peftodyssey.memory.device import Device
from peftodyssey.models.ladder import find_ladder
from peftodyssey.models.source import resolve
from peftodyssey.plan.ladder import plan_ladder
from peftodyssey.recipe.load_ladder import load_ladder
from peftodyssey.training import pretrain as loop

CPU = Device("cpu", "CPU", 8 << 30, 8 << 30, False)
OPTIONS = JobOptions("cpu", 0.0, "all", None)  # a checkpoint after every wait for the device
RECIPE = """\
version: 1
kind: ladder
name: test
model: {layers: 1, width: 16, heads: 2, feed_forward: 24, vocabulary: 300, positions: 64}
text: {path: text.jsonl}
held_out: [{name: judged, path: text.jsonl, split: {test: 20%}}]
train: {seq_len: 16, batch_tokens: 64, peak_lr: 1e-2, warmup_steps: 2}
rungs: {trunk: [640, 1280], annealed: [640, 1280], decay: 20%}
"""
RUNGS = ("init", "annealed-640", "annealed-1280", "trunk-640", "trunk-1280")


class Quiet:
    """Callbacks that stop, or break, after so many steps of this start."""

    def __init__(self, stop_after: int | None = None, break_after: int | None = None) -> None:
        self.seen, self.stop_after, self.break_after = 0, stop_after, break_after

    def step(self, record, steps):
        self.seen += 1
        if self.seen == self.break_after:
            raise RuntimeError("the power is gone")

    def should_stop(self):
        return self.stop_after is not None and self.seen + loop.READ_EVERY > self.stop_after

    def note(self, text):
        raise AssertionError(text)


def planned(folder: Path, overrides=()):
    with (folder / "text.jsonl").open("w") as out:
        for n in range(60):
            out.write(
                json.dumps({"text": f"document {n}: the ladder has {n * n} rungs, and {n} of them are annealed. " * 2})
                + "\n"
            )
    (folder / "ladder.yaml").write_text(RECIPE)
    return plan_ladder(load_ladder(folder / "ladder.yaml", overrides), CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    plan = planned(folder)
    done = pretrain(plan, JobContext(folder / "out", JobOptions("cpu", 1e9, "all", None), Quiet()))
    return plan, folder / "out", done


def weights(root: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(root / name / "model.safetensors") for name in RUNGS}


def same_bits(one: Path, other: Path) -> bool:
    first_weights, second_weights = weights(one), weights(other)
    return all(
        torch.equal(first_weights[rung][key], second_weights[rung][key])
        for rung in RUNGS
        for key in first_weights[rung]
    )


def test_every_rung_is_there_and_another(whole):
    plan, root, done = whole
    content = json.loads((root / "ladder.json").read_text())
    assert {(r["name"], r["arm"], r["tokens"]) for r in content["rungs"]} == {
        ("init", "init", 0),
        ("annealed-640", "annealed", 640),
        ("trunk-640", "trunk", 640),
        ("annealed-1280", "annealed", 1280),
        ("trunk-1280", "trunk", 1280),
    }
    assert content["parameters"] == plan.parameters == sum(t.numel() for t in weights(root)["init"].values())
    assert len(done) == 20 + 2 + 4  # the trunk, and 20 % of 10 and of 20 steps
    nll = {r["name"]: r["validation_nll"]["judged"] for r in content["rungs"]}
    assert nll["init"] > nll["trunk-640"] > nll["trunk-1280"]
    assert not same_bits_of(weights(root), "annealed-1280", "trunk-1280")
    assert not (root / "checkpoint").exists()
    assert pretrain(plan, JobContext(root, OPTIONS, Quiet())) == []  # nothing is done twice


def same_bits_of(tensors, one, other):
    return all(torch.equal(tensors[one][key], tensors[other][key]) for key in tensors[one])


@pytest.mark.parametrize("broken_at", [[1], [9], [10, 1], [11, 3, 5], [4, 4, 4, 4, 4]])
def test_broken_anywhere_and_resumed_gives_the_same_bits(whole, tmp_path, monkeypatch, broken_at):
    monkeypatch.setattr(loop, "READ_EVERY", 2)
    plan = planned(tmp_path)
    for steps in broken_at:
        with pytest.raises(RuntimeError, match="power"):
            pretrain(plan, JobContext(tmp_path / "out", OPTIONS, Quiet(break_after=steps)))
    done = pretrain(plan, JobContext(tmp_path / "out", OPTIONS, Quiet()))
    assert same_bits(whole[1], tmp_path / "out")
    assert sum(broken_at) == 1 or len(done) < 26


def test_stopped_and_resumed_gives_the_same_bits(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "READ_EVERY", 1)
    plan = planned(tmp_path)
    starts = 0
    while True:
        starts += 1
        try:
            pretrain(plan, JobContext(tmp_path / "out", OPTIONS, Quiet(stop_after=6)))
            break
        except Interrupted:
            pass
    assert starts > 2
    assert same_bits(whole[1], tmp_path / "out")


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(whole, tmp_path):
    plan = planned(tmp_path)
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]
from test_ladder_train import *
loop.READ_EVERY = 2
class Killed(Quiet):
    def step(self, record, steps):
        super().step(record, steps)
        if self.seen == 13:
            os.kill(os.getpid(), signal.SIGKILL)
pretrain(planned(Path({str(tmp_path)!r})), JobContext(Path({str(tmp_path / "out")!r}), OPTIONS, Killed()))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -9
    pretrain(plan, JobContext(tmp_path / "out", OPTIONS, Quiet()))
    assert same_bits(whole[1], tmp_path / "out")


def test_transformers_loads_a_rung_with_equal_logits(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from peftodyssey.training.small_llama import init_model

    plan, root, _ = whole
    for rung in ("init", "annealed-1280"):
        theirs = AutoModelForCausalLM.from_pretrained(root / rung, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(root / rung)
        text = "the ladder has 49 rungs"
        tokens = torch.tensor([tokenizer(text).input_ids])
        assert tokenizer.decode(tokens[0]) == text
        ours = init_model(plan.config, 0)
        with torch.no_grad():
            for name, parameter in ours.named_parameters():
                parameter.copy_(load_file(root / rung / "model.safetensors")[name])
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)
        assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (0, 0)


def test_a_trained_ladder_is_an_axis_of_a_recipe(whole):
    from support import micro
    from support.plans import build, load_recipe

    _, root, _ = whole
    assert [rung.name for rung in find_ladder(str(root)).rungs if rung.arm == "annealed"] == [
        "annealed-640",
        "annealed-1280",
    ]
    assert find_ladder(str(root)).parameters() == whole[0].parameters
    source = resolve(str(root), "trunk-640")
    assert (source.pretrain_tokens, source.arm) == (640, "trunk")
    line = f"{{name: {root}, revisions: {{tokens: [640, 1280], arm: annealed}}}}"
    text = micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", line)
    plan = build(
        load_recipe(text, ["train.seq_len=32", "train.batch_tokens=64", "score.context=32", "score.stride=32"]), CPU
    )
    assert {t.cell.model.revision for t in plan.cells} == {"annealed-640", "annealed-1280"}


def test_another_recipe_does_not_write_into_a_ladder(whole, tmp_path):
    with pytest.raises(InputError, match="other settings"):
        pretrain(planned(tmp_path, ["train.peak_lr=2e-2"]), JobContext(whole[1], OPTIONS, Quiet()))
    assert (
        plan_ladder(load_ladder(tmp_path / "ladder.yaml", ["train.micro_batch_size=1", "name=other"]), CPU).identity
        == whole[0].identity
    )


@pytest.mark.slow
def test_the_command_line_trains_and_says_so(tmp_path):
    from support import micro

    planned(tmp_path)
    ended = micro.invoke("ladder", "train", tmp_path / "ladder.yaml", "--out", tmp_path / "mine")
    assert ended.returncode == 0, ended.stderr
    assert "annealed-1280" in ended.stdout
    assert "5 rungs" in " ".join(ended.stdout.split())
    again = micro.invoke("ladder", "train", tmp_path / "ladder.yaml", "--out", tmp_path / "mine")
    assert "(0 steps now)" in again.stdout
