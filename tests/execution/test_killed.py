"""Law 6 for whole runs: kill -9 in each phase, then run to the end: the results are those of an unbroken run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support import micro, two_lengths

from peftodyssey.store import tables

pytestmark = pytest.mark.slow

# Dies for real at the nth call of a function of the program, before or after it did its work.
DIE = """
import importlib, os, signal, sys
place, when, nth = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
module, name = place.rsplit(":", 1)
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), [0]
def dying(*arguments, **options):
    calls[0] += 1
    if calls[0] == nth and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if calls[0] == nth and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
from peftodyssey.cli.main import main
main()
"""

PHASES = {
    "tokenise": ("peftodyssey.corpora.index:_write", "after", 2),
    "base score": ("peftodyssey.scoring.nll:_score_batch", "after", 2),
    "first step": ("peftodyssey.training.optim:clip", "after", 1),
    "mid-training, with checkpoints": ("peftodyssey.training.optim:clip", "after", 7),
    "checkpoint write": ("peftodyssey.training.checkpoint:_write_tensors", "after", 2),
    "evaluation": ("peftodyssey.jobs.eval_callback:EvalCallback.__call__", "after", 1),
    "adapter write": ("peftodyssey.methods.adapter:_set_base_model_name", "before", 1),
    "column of a cell": ("peftodyssey.store.parquet:write_nll", "after", 6),
    "manifest, before its rename": ("peftodyssey.store.sealed:write", "before", 9),
    "manifest, after its rename": ("peftodyssey.store.manifest:commit", "after", 8),
    "collecting": ("peftodyssey.report.collect:_with_selection", "before", 1),
    "report": ("peftodyssey.report.summary:write", "before", 1),
}


TWO_CELLS = micro.RECIPE.replace("  - {method: lora, rank: 2, lr: 1e-2}\n", "").replace("{tune: [1e-4, 1e-3]}", "1e-3")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Runs in this process are compared bit for bit with those of processes with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    recipe = micro.write(folder, TWO_CELLS)
    ended = micro.invoke("run", recipe, "--out", folder / "out")
    assert ended.returncode == 0, ended.stderr
    return recipe, folder / "out"


def comparable(out: Path) -> object:
    return pq.read_table(out / "results.parquet").drop_columns(list(tables.MEASURED))


@pytest.mark.parametrize("phase", PHASES)
def test_killed_and_started_again(phase: str, unbroken: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = unbroken
    place, when, nth = PHASES[phase]
    run = ("run", recipe, "--out", tmp_path / "out", "--checkpoint-every", "0.001s")
    broken = micro.command(place, when, nth, *run, code=DIE)
    assert broken.returncode == -signal.SIGKILL, broken.stderr
    ended = micro.invoke(*run)
    assert ended.returncode == 0, ended.stderr
    assert comparable(tmp_path / "out").equals(comparable(whole))
    assert pq.read_table(tmp_path / "out/learning_curves.parquet").equals(
        pq.read_table(whole / "learning_curves.parquet")
    )
    assert (tmp_path / "out/report/index.html").stat().st_size > 0


def test_killed_after_the_first_end_in_a_group_the_others_resume_with_the_same_bits(tmp_path: Path) -> None:
    recipe = two_lengths.write(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert micro.invoke("run", recipe, "--out", whole).returncode == 0
    run = ("run", recipe, "--out", broken)
    killed = micro.command("peftodyssey.jobs.finish:finish", "after", 1, *run, code=DIE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (first,) = broken.glob("cells/*/manifest.json")
    committed = first.stat().st_mtime_ns
    killed = micro.command("peftodyssey.multi_lora.adamw:update", "after", 2, *run, code=DIE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    two = list(broken.glob("cells/*/manifest.json"))
    assert len(two) == 2
    ended = micro.invoke(*run)
    assert ended.returncode == 0, ended.stderr
    assert first.stat().st_mtime_ns == committed
    assert "2 lora cells together" in ended.stderr
    assert "4 lora cells together" not in ended.stderr
    assert comparable(broken).equals(comparable(whole))
    curves = [pq.read_table(out / "learning_curves.parquet") for out in (broken, whole)]
    assert curves[0].equals(curves[1])


def test_ctrl_c_ends_cleanly_and_the_next_start_names_the_step_it_resumes_from(tmp_path: Path) -> None:
    text = micro.RECIPE.replace("budget: 4 steps", "budget: 150 steps").replace("{tune: [1e-4, 1e-3]}", "1e-4")
    recipe = micro.write(tmp_path, text)
    command = ["run", str(recipe), "--out", str(tmp_path / "out"), "--only", "method=full"]
    with subprocess.Popen(
        [sys.executable, "-m", "peftodyssey", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=micro.environment(),
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("out/cells/*/.progress.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    again = micro.invoke(*command)
    assert again.returncode == 0, again.stderr
    resumed = re.search(r"from step (\d+)", again.stderr)
    assert resumed, again.stderr
    assert 0 < int(resumed[1]) < 150
