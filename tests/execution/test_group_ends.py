"""Members of a multi-LoRA group are finished as they end, while the others wait; one that fails leaves them alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from support import two_lengths
from support.plans import collect

from peftodyssey import api
from peftodyssey.execution import launch
from peftodyssey.jobs import finish as finish_job
from peftodyssey.jobs import train_multi_lora
from peftodyssey.measures.registry import MEASURES_BY_NAME
from peftodyssey.multi_lora import adamw
from peftodyssey.store import layout, manifest, tables


def run(recipe: Path, out: Path) -> str:
    """Runs the recipe without its report; what it printed."""
    printed = io.StringIO()
    launch.start(api.plan(recipe), out, launch.Options(), Console(file=printed, width=200), MEASURES_BY_NAME)
    return printed.getvalue()


def rows_of(out: Path) -> list[dict]:
    rows = [{name: value for name, value in row.items() if name not in tables.MEASURED} for row in collect(out)]
    return sorted(rows, key=lambda row: row["cell"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[tuple[int, int]]]:
    """A recipe, a run of it, and at every step of its training how many members trained and how many were finished."""
    folder = tmp_path_factory.mktemp("whole")
    recipe, out, seen = two_lengths.write(folder), folder / "out", []
    update = adamw.update

    def watched(banks, *arguments) -> None:
        seen.append((len(banks.order), len(list(out.glob("cells/*/manifest.json")))))
        update(banks, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamw, "update", watched)
        printed = run(recipe, out)
    assert "4 lora cells together" in printed
    assert "2 lora cells together" in printed
    return recipe, out, seen


def test_a_member_is_whole_on_disk_while_the_others_still_train(whole: tuple[Path, Path, list]) -> None:
    _, out, seen = whole
    assert sorted(set(seen)) == [(2, 2), (4, 0)]
    for row in rows_of(out):
        assert row["status"] == "done"
        assert row["multi_lora_size"] == two_lengths.CELLS
    columns = [manifest.read(folder)["facts"] for folder in (out / layout.SCORES).iterdir()]
    texts = 3
    assert sorted(facts.get("together", 1) for facts in columns) == [1] * 5 + [2] * texts * two_lengths.CELLS


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, two_lengths.CELLS])
def test_a_member_that_cannot_be_finished_fails_alone(
    nth: int, whole: tuple[Path, Path, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, unbroken, seen = whole
    begun: list[str] = []

    def finish(task, *arguments) -> None:
        begun.append(task.folder)
        if len(begun) == nth:
            raise RuntimeError("a full quiver")
        finish_job.finish(task, *arguments)

    trained: list[int] = []
    update = adamw.update

    def counted(banks, *arguments) -> None:
        trained.append(len(banks.order))
        update(banks, *arguments)

    monkeypatch.setattr(train_multi_lora, "finish", finish)
    monkeypatch.setattr(adamw, "update", counted)
    out = tmp_path / "out"
    printed = run(recipe, out)
    assert "a full quiver" in printed
    assert "cannot train together" not in printed
    assert trained == [members for members, _ in seen], "the others resumed from where they were"
    assert manifest.failure(out / begun[nth - 1])["reason"].startswith("RuntimeError: a full quiver")
    rows = rows_of(out)
    assert [row["status"] for row in rows].count("failed") == 1
    good = [row for row in rows if row["status"] == "done"]
    assert good == [row for row in rows_of(unbroken) if row["cell"] in {one["cell"] for one in good}]
