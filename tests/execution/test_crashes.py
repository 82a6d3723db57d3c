"""Law 6 for every write: a process that dies at any rename, sync, deletion or new folder is started again, and the
results are those of an unbroken run; nothing that had a manifest is made again, nothing is left over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import micro
from support.crashes import crashing

from peftodyssey import api
from peftodyssey.store import survey, tables

RECIPE = micro.RECIPE.replace("  - {method: full, lr: {tune: [1e-4, 1e-3]}}\n", "").replace(
    "  - {method: qlora, rank: 2, lr: 1e-2}\n", ""
)
Verb = tuple[object, ...]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """A recipe, its run, and how many boundaries each verb has."""
    folder = tmp_path_factory.mktemp("unbroken")
    recipe, out = micro.write(folder, RECIPE), folder / "out"
    counts = {}
    for verb in VERBS:
        with crashing(folder) as disk:
            ended = micro.invoke(*VERBS[verb](recipe, out))
        assert ended.returncode == 0, ended.stderr
        counts[verb] = disk.count
    return recipe, out, counts


VERBS: dict[str, Callable[[Path, Path], Verb]] = {
    "run": lambda recipe, out: ("run", recipe, "--out", out, "--checkpoint-every", "0.001s"),
    "report": lambda recipe, out: ("report", out),
    "export": lambda recipe, out: ("export", out, "best", "--to", out.parent / "exported"),
    "check --repair": lambda recipe, out: ("check", out, "--repair"),
    "score": lambda recipe, out: (
        *("score", "bundled/odyssey-3m", "bundled/wiki_general", "--revision", "annealed-64M"),
        *("--tokens", "500", "--context", "64", "--out", out.parent / "scored"),
    ),
}
TIMES = {"run": 40, "report": 20, "export": 20, "check --repair": 10, "score": 20}
CASES = [(verb, number) for verb, times in TIMES.items() for number in range(times)]
DEFAULT = {("run", 17), ("export", 9), ("score", 11)}


@pytest.mark.parametrize(
    ("verb", "number"),
    [pytest.param(*case, marks=[] if case in DEFAULT else [pytest.mark.slow]) for case in CASES],
)
def test_it_dies_anywhere_and_the_next_start_ends_it(
    verb: str, number: int, unbroken: tuple[Path, Path, dict[str, int]], tmp_path: Path
) -> None:
    recipe, whole, counts = unbroken
    out = tmp_path / "out"
    if verb != "run":
        shutil.copytree(whole, out)
    if verb == "check --repair":
        (out / "results.parquet").write_bytes(b"damaged")
        next(out.glob("plans/*.json")).unlink()
    command = VERBS[verb](recipe, out)
    with crashing(tmp_path, 1 + number * counts[verb] // TIMES[verb]) as disk:
        micro.invoke(*command)
    assert disk.dead or verb == "check --repair"  # of a whole run it has fewer boundaries
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    with crashing(tmp_path):
        ended = micro.invoke(*command)
        if verb == "export" and "is not empty" in ended.stderr:  # it died when the adapter was whole
            assert ended.returncode == 2
        else:
            assert ended.returncode == 0, ended.stderr
        again = micro.invoke("run", recipe, "--out", out)
        assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert rows(out) == rows(whole)
    assert files_of(tmp_path) == files_of(whole.parent) if verb == "score" else files_of(out) == files_of(whole)
    assert list(survey.left_over(tmp_path)) == []
    if verb == "export":
        assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == sorted(
            path.name for path in (whole.parent / "exported").iterdir()
        )


def rows(root: Path) -> list[dict[str, Any]]:
    return api.open(root).results.drop_columns(list(tables.MEASURED)).to_pylist()


def files_of(root: Path) -> dict[str, bytes]:
    """What columns, indexes and adapters hold: the same bits whenever they are made."""
    names = ("nll.parquet", "index.parquet", "documents.parquet", "adapter_model.safetensors")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.name in names and "exported" not in path.parts
    }
