"""What a run says: each finished cell in a line, folders in the log, nothing with a hash on the screen."""

from __future__ import annotations

import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support import micro

import peftodyssey
from peftodyssey.store import layout

RECIPE = (
    micro.RECIPE[: micro.RECIPE.index("methods:")]
    + """\
methods:
  - {method: full, lr: 1e-3}
  - {method: lora, rank: 2, lr: {tune: [1e-3, 1e-2]}}
train: {budget: 2 steps, seq_len: 64, batch_tokens: 256}
score: {context: 64, tokens: 1k}
"""
)
HASH = re.compile(r"-[0-9a-f]{8}\b")
LINE = re.compile(
    r"done +(\S+) +(\S.*?)  +lr (\S+) +change ([+-]\d\.\d{4}) +forgetting ([+-]\d\.\d{4}) +\d[\d.]* (s|min|h)"
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("run")
    return micro.invoke("run", micro.write(folder, RECIPE), "--out", folder / "out"), folder / "out"


def test_a_finished_cell_says_what_it_found(ended: tuple[CompletedProcess[str], Path]) -> None:
    process, root = ended
    assert process.returncode == 0, process.stderr
    found = {(match[2], match[3]): match for match in LINE.finditer(process.stderr)}
    rows = {
        (row["label"], f"{row['lr']:.0e}".replace("e-0", "e-")): row
        for row in peftodyssey.open(root).results.to_pylist()
    }
    assert found.keys() == rows.keys()
    for key, row in rows.items():
        assert found[key][1] == "arxiv_cs.CL"
        assert float(found[key][4]) == pytest.approx(row["delta_nll"], abs=6e-5)
        assert float(found[key][5]) == pytest.approx(row["forgetting"], abs=6e-5)


def test_the_time_of_a_cell_that_trained_with_others_is_called_a_share(
    ended: tuple[CompletedProcess[str], Path],
) -> None:
    shares = [line for line in ended[0].stderr.splitlines() if "its share of 2" in line]
    assert len(shares) == 2
    assert all("lora" in line for line in shares)


def test_folders_are_in_the_log_and_not_on_the_screen(ended: tuple[CompletedProcess[str], Path]) -> None:
    process, root = ended
    assert not HASH.search(process.stderr), process.stderr
    assert str(root / layout.RUN_LOG) in process.stdout
    log = (root / layout.RUN_LOG).read_text()
    for kind, pattern in ((layout.CELLS, "*"), (layout.SCORES, "*-base-*"), (layout.CORPORA, "*")):
        folders = list((root / kind).glob(pattern))
        assert folders
        assert all(f"{kind}/{folder.name}" in log for folder in folders)


@pytest.mark.slow
def test_folders_are_on_the_screen_where_asked(tmp_path: Path) -> None:
    recipe = micro.write(tmp_path, RECIPE.replace("  - {method: lora, rank: 2, lr: {tune: [1e-3, 1e-2]}}\n", ""))
    process = micro.invoke("run", recipe, "--out", tmp_path / "out", "--verbose", "--set", "train.budget=1 steps")
    assert process.returncode == 0, process.stderr
    assert f"{layout.CELLS}/{next((tmp_path / 'out' / layout.CELLS).iterdir()).name}" in process.stderr


def test_the_time_of_a_run_is_unknown_until_cells_are_finished(
    ended: tuple[CompletedProcess[str], Path], tmp_path: Path
) -> None:
    process, root = ended
    assert "time: unknown; `peftodyssey plan" in process.stderr.splitlines()[0]
    assert "--probe` measures it" in process.stderr.splitlines()[0]  # no number that nothing measured
    assert "time: nothing is missing" in micro.invoke("status", root).stdout
    more = ("run", micro.write(tmp_path, RECIPE), "--set", "seeds=[0, 1]", "--out", root, "--only", "method=none")
    assert "by the 3 cells finished" in micro.invoke(*more).stderr
    assert "time: unknown" in micro.invoke("check", micro.write(tmp_path, RECIPE)).stdout
    named = micro.invoke("plan", micro.write(tmp_path, RECIPE), "--gpu", "T4")
    assert "a GPU that is not here" in named.stdout
