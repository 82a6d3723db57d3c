"""A run is never lost to memory: what does not fit is done in smaller pieces, what cannot be done fails alone, and it
says so.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support import micro
from typer.testing import CliRunner

from peftodyssey import api
from peftodyssey.cli.main import app
from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.errors import EXIT_SOME_FAILED, DoesNotFit
from peftodyssey.execution import launch
from peftodyssey.execution.launch import Options
from peftodyssey.execution.outcome import Outcome
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.memory.memory_plan import scoring_bytes
from peftodyssey.store import layout, manifest
from peftodyssey.training import grad_accumulation

ONE = """\
version: 1
name: memory
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
general: [bundled/wiki_general]
methods:
  - {method: lora, rank: 2, lr: 1e-2}
train: {budget: 2 steps, seq_len: 256, batch_tokens: 8192}
score: {context: 64, stride: 32, tokens: 2k}
"""
BALLAST = """\
import sys
buffer = bytearray(192 << 20)
buffer[:: 4096] = b"1" * len(buffer[:: 4096])
from peftodyssey.cli.main import main
main()
"""  # a process that holds 192 MiB of which no plan knows


def facts(root: Path, method: str) -> dict[str, Any]:
    """What the manifest of the one cell of a method says."""
    folder = next(f for f in (root / layout.CELLS).iterdir() if f"-{method}-" in f.name)
    return (manifest.read(folder) or {})["facts"]


def too_large(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """A GPU that runs out of memory where `what(blocks, model)` says so."""
    original = grad_accumulation.token_nll_sums

    def token_nll_sums(model: Any, backbone_and_head: Any, inputs: Any, labels: Any, *rest: Any) -> Any:
        sums = original(model, backbone_and_head, inputs, labels, *rest)
        if what(len(labels[0]), model):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sums

    monkeypatch.setattr(grad_accumulation, "token_nll_sums", token_nll_sums)


@pytest.mark.slow
def test_a_cpu_budget_that_the_first_micro_batch_exceeds(tmp_path: Path) -> None:
    """Measured, not simulated: resident memory of a process that holds more than the plan knows of."""
    recipe = micro.write(tmp_path, ONE)
    free = micro.command("run", recipe, "--out", tmp_path / "free", "--device", "cpu")
    assert free.returncode == 0, free.stderr
    whole = facts(tmp_path / "free", "lora")
    assert whole["out_of_memory"] == []
    budget_bytes = whole["planned_memory_bytes"] + (16 << 20)
    tight = micro.command(
        "run",
        recipe,
        "--out",
        tmp_path / "tight",
        "--device",
        "cpu",
        "--memory",
        f"{budget_bytes >> 20}MiB",
        "--allow-oom",
        code=BALLAST,
    )
    assert tight.returncode == 0, tight.stderr
    done = facts(tmp_path / "tight", "lora")
    sentence = done["out_of_memory"][0]
    assert re.fullmatch(r"step 1: one micro-batch of 8 sequences .* 8 x 4", sentence)
    assert f"note: {sentence}" in tight.stderr
    assert all(
        sentence.startswith("step 1: ") for sentence in done["out_of_memory"]
    )  # one overshoot condemns no later step
    assert (whole["micro_batch_size"], whole["gradient_checkpointing"]) == (8, "none")
    assert done["micro_batch_size"] < 8
    one, other = (api.open(tmp_path / name).results.to_pylist()[0] for name in ("free", "tight"))
    for column in ("nll_before", "nll_after", "valid_nll_after", "general_nll_after"):
        assert other[column] == pytest.approx(one[column], rel=1e-5)


def test_a_run_on_a_cpu_is_held_to_what_is_free_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To `--memory` where it is stated; to nothing where the user starts although the plan does not fit."""
    plan, limits = api.plan(micro.write(tmp_path), device="cpu"), []

    def execute(_: Any, __: Any, context: Any, *___: Any) -> Outcome:
        limits.append(context.options.resident_bytes)
        return Outcome()

    monkeypatch.setattr(launch, "execute", execute)
    for number, options in enumerate((Options(), Options(memory_bytes=7 << 30), Options(allow_oom=True))):
        launch.start(plan, tmp_path / str(number), options, Console(quiet=True), {})
    assert limits == [plan.budget_bytes, 7 << 30, None]


@pytest.mark.slow
def test_a_cell_that_cannot_fit_fails_alone_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_full(_: int, model: Any) -> bool:
        return model.get_input_embeddings().weight.requires_grad

    too_large(monkeypatch, in_full)
    text = micro.RECIPE.replace("{tune: [1e-4, 1e-3]}", "1e-4").replace("  - {method: qlora, rank: 2, lr: 1e-2}\n", "")
    ended = CliRunner().invoke(
        app, ["run", str(micro.write(tmp_path, text)), "--out", str(tmp_path / "out"), "--device", "cpu"]
    )
    assert ended.exit_code == EXIT_SOME_FAILED
    rows = {row["method"]: row for row in api.open(tmp_path / "out").results.to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"full": "failed", "lora": "done"}
    assert "one sequence does not fit" in rows["full"]["reason"]
    assert "seq_len" in rows["full"]["reason"]


def test_the_reduced_way_is_in_the_manifest_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    too_large(monkeypatch, lambda blocks, _: blocks > 1)
    given_back: list[LoadedModels] = []
    monkeypatch.setattr(LoadedModels, "give_back", lambda models: given_back.append(models))
    console = Console(record=True, width=200, file=io.StringIO())
    api.run_plan(
        api.plan(micro.write(tmp_path)), tmp_path / "out", options=Options(only={"method": "lora"}), console=console
    )
    assert len(given_back) == 1, "what a finished cell freed is returned before the next"
    recorded = facts(tmp_path / "out", "lora")
    assert (recorded["micro_batch_size"], recorded["gradient_checkpointing"]) == (1, "none")
    assert [sentence.split("continues with ")[1] for sentence in recorded["out_of_memory"]] == ["2 x 2", "4 x 1"]
    printed = console.export_text()
    assert all(f"note: {sentence}" in printed for sentence in recorded["out_of_memory"])


def test_scoring_is_planned_from_the_budget_and_no_result_depends_on_it(tmp_path: Path) -> None:
    wide = api.plan(micro.write(tmp_path))
    assert {column.batch_tokens for task in wide.cells for column in task.scores} == {SCORE_BATCH_TOKENS["cpu"]}
    first = wide.cells[0]
    narrow = api.plan(micro.write(tmp_path), memory=scoring_bytes(first.shape, first.step, 512))
    assert {column.batch_tokens for column in narrow.cells[0].scores} == {512}
    assert narrow.base_scores[0].batch_tokens >= 512  # nothing beside it
    assert [task.hash for task in wide.cells] == [task.hash for task in narrow.cells]
    assert [column.folder for column in wide.base_scores] == [column.folder for column in narrow.base_scores]


def test_what_cannot_be_scored_is_refused_as_well(tmp_path: Path) -> None:
    plan = api.plan(micro.write(tmp_path))
    task = replace(plan.cells[0], scoring_bytes=plan.budget_bytes + 1)
    plan = replace(plan, cells=(task, *plan.cells[1:]))
    assert plan.too_large == (task,)
    with pytest.raises(DoesNotFit, match="GiB to score one window of 64 tokens"):
        api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()
