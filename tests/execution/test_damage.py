"""Whatever is damaged in a finished run is named by every command, decides no number, and is made again by `run`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import micro

from peftodyssey import api
from peftodyssey.store import sealed, tables

FILES = {
    "manifest of a cell": "cells/*-lora-*/manifest.json",
    "manifest of a column": "scores/*-test-*-base-*/manifest.json",
    "manifest of a text": "corpora/*-test-*/manifest.json",
    "learning curves of a cell": "cells/*-lora-*/learning_curves.parquet",
    "log of a cell": "cells/*-lora-*/log.parquet",
    "adapter": "cells/*-lora-*/adapter/adapter_model.safetensors",
    "config of an adapter": "cells/*-lora-*/adapter/adapter_config.json",
    "losses of a base": "scores/*-test-*-base-*/nll.parquet",
    "losses of a cell": "scores/*-test-*-lora-*/nll.parquet",
    "index": "corpora/*-test-*/index.parquet",
    "documents": "corpora/*-test-*/documents.parquet",
    "index of the training text": "corpora/*-train-*/index.parquet",
}
TABLES = ("results.parquet", "learning_curves.parquet", "token_breakdown.parquet", "tables.json", "report/index.html")
UNREAD = ("recipe.yaml", "resolved.yaml", "times.json", "run.log")  # results do not come from these
RETRAINED = ("manifest of a cell", "learning curves of a cell", "log of a cell", "adapter", "config of an adapter")


def flip(path: Path) -> None:
    """Flips one bit in the middle: of JSON in a digit, so that it stays valid."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if path.suffix == ".json":
        middle = next(i for i in range(middle, len(content)) if content[i] in b"02468")
    content[middle] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe of one LoRA cell, and its finished run."""
    folder = tmp_path_factory.mktemp("whole")
    text = micro.RECIPE.replace("  - {method: full, lr: {tune: [1e-4, 1e-3]}}\n", "")
    recipe = micro.write(folder, text.replace("  - {method: qlora, rank: 2, lr: 1e-2}\n", ""))
    assert micro.invoke("run", recipe, "--out", folder / "out").returncode == 0
    return recipe, folder / "out"


@pytest.fixture
def copy(whole: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(whole[1], tmp_path / "out"))


def rows(root: Path) -> list[dict[str, Any]]:
    return api.open(root).results.drop_columns(list(tables.MEASURED)).to_pylist()


def first(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def every_file(root: Path) -> dict[str, bytes]:
    """The columns and indexes of a run, which are the same bits when they are made again."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for kind in ("corpora", "scores", "cells")
        for path in (root / kind).rglob("*")
        if path.name in ("nll.parquet", "index.parquet", "documents.parquet", "adapter_model.safetensors")
    }


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
@pytest.mark.parametrize("what", FILES)
def test_damage_is_named_decides_no_number_and_is_made_again(
    what: str, damage: str, whole: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    check_damage(what, damage, whole, copy, tmp_path)


@pytest.mark.parametrize(("what", "damage"), [("losses of a base", "a bit flipped")])
def test_one_of_them(what: str, damage: str, whole: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    check_damage(what, damage, whole, copy, tmp_path)


def check_damage(what: str, damage: str, whole: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    recipe, reference = whole
    path = first(copy, FILES[what])
    DAMAGES.get(damage, Path.unlink)(path)
    lost = damage == "deleted" and path.name == "manifest.json"  # as if it had never been finished
    exported = micro.invoke("export", copy, "method=lora", "--to", tmp_path / "exported")
    if "cells" in FILES[what]:
        assert exported.returncode == 2
        assert path.name in exported.stderr or (lost and "has no manifest" in exported.stderr)
        assert not (tmp_path / "exported").exists()
    else:
        assert exported.returncode == 0  # what it takes is whole: the adapter and the table
    reported = micro.invoke("report", copy)
    if "train" not in FILES[what]:  # the report does not read the training text
        assert [row["status"] for row in rows(copy)] == ["pending" if lost else "damaged"]
        assert all(row["nll_after"] is None for row in rows(copy))
    if not lost:
        assert path.name in reported.stderr
        assert reported.returncode == 1
        states = micro.invoke("status", copy)
        assert path.name in states.stdout + states.stderr
    done = micro.invoke("run", recipe, "--out", copy)
    assert done.returncode == 0
    assert lost or path.name in done.stderr
    assert rows(copy) == rows(reference)
    assert every_file(copy) == every_file(reference)
    assert micro.invoke("check", copy).returncode == 0


@pytest.mark.parametrize("damage", [*(slow(damage) for damage in ("truncated", "zeroed")), "a bit flipped", "deleted"])
def test_a_damaged_plan_is_refused_and_written_again(
    damage: str, whole: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    recipe, reference = whole
    DAMAGES.get(damage, Path.unlink)(first(copy, "plans/*.json"))
    for arguments in (
        ("status", copy),
        ("report", copy),
        ("query", copy, "select * from tokens"),
        ("export", copy, "best", "--to", tmp_path / "e"),
    ):
        ended = micro.invoke(*arguments)
        assert ended.returncode == 2
        assert "plans" in ended.stderr
    done = micro.invoke("run", recipe, "--out", copy)
    assert (done.returncode, rows(copy)) == (0, rows(reference))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("results.parquet", "a bit flipped"),
        *(slow(name, damage) for name in TABLES for damage in (*DAMAGES, "deleted")),
    ],
)
def test_damaged_tables_are_refused_and_made_again(
    name: str, damage: str, whole: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    recipe, reference = whole
    DAMAGES.get(damage, Path.unlink)(copy / name)
    if name in ("results.parquet", "tables.json"):
        for arguments in (("query", copy, "select * from results"), ("export", copy, "best", "--to", tmp_path / "e")):
            ended = micro.invoke(*arguments)
            assert ended.returncode == 2
            assert name in ended.stderr
    done = micro.invoke("run", recipe, "--out", copy)
    assert (done.returncode, rows(copy)) == (0, rows(reference))
    assert (copy / name).is_file()


def test_a_damaged_adapter_is_refused_by_every_command(whole: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    adapter = first(copy, "cells/*/adapter")
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    base = ("bundled/odyssey-3m", "--revision", "annealed-64M")
    text = whole[0].read_text().replace("{method: lora, rank: 2, lr: 1e-2}", f"{{method: saved, path: {adapter}}}")
    recipe = tmp_path / "saved.yaml"
    recipe.write_text(text)
    for arguments in (
        ("score", base[0], "bundled/wiki_general", *base[1:], "--adapter", adapter, "--tokens", "500"),
        ("doctor", "--adapter", adapter, "--base", base[0], *base[1:]),
        ("check", recipe),
        ("export", copy, "method=lora", "--merge", "--to", tmp_path / "e"),
    ):
        ended = micro.invoke(*arguments)
        assert ended.returncode == 2, arguments[0]
        assert "adapter/adapter_config.json is not what was written" in ended.stderr + ended.stdout


def test_check_hashes_what_looks_unchanged(copy: Path) -> None:
    path = first(copy, "scores/*/nll.parquet")
    assert micro.invoke("report", copy).returncode == 0
    verified = path.with_name(".verified.json")
    stat = path.stat()
    flip(path)
    stamp = verified.read_text().replace(str(stat.st_ctime_ns), str(path.stat().st_ctime_ns))
    verified.write_text(
        stamp.replace(str(stat.st_mtime_ns), str(path.stat().st_mtime_ns))
    )  # as if the disk had done it
    checked = micro.invoke("check", copy)
    assert checked.returncode == 1
    assert f"{path.parent.name}/nll.parquet" in checked.stdout
    assert "damaged" in micro.invoke("report", copy).stderr  # from then on every command knows


def test_check_repairs_what_needs_no_model(whole: tuple[Path, Path], copy: Path) -> None:
    for path in copy.glob("plans/*.json"):
        path.unlink()
    flip(copy / "results.parquet")
    left = copy / "scores/.nll.parquet.999999999.tmp"
    left.write_bytes(b"half")
    assert micro.invoke("check", copy).returncode == 1
    repaired = micro.invoke("check", copy, "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert not left.exists()
    assert rows(copy) == rows(whole[1])


def test_a_cell_that_no_plan_names_is_told(copy: Path, whole: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(whole[0].read_text().replace("name: micro", "name: other").replace("rank: 2", "rank: 1"))
    assert micro.invoke("run", other, "--out", copy).returncode == 0
    first(copy, "plans/micro-*.json").unlink()
    for verb in ("status", "report"):
        told = micro.invoke(verb, copy)
        assert "no plan names 1 finished cells" in told.stderr
    assert micro.invoke("run", whole[0], "--out", copy).returncode == 0
    assert len(rows(copy)) == 2


def test_a_plan_of_a_stranger_reaches_no_folder_outside(copy: Path, tmp_path: Path) -> None:
    path = first(copy, "plans/*.json")
    plan = sealed.read(path)
    assert plan is not None
    plan["cells"][0]["folder"] = "../../secret"
    sealed.write(path, plan)
    ended = micro.invoke("export", copy, "best", "--to", tmp_path / "e")
    assert ended.returncode == 2
    assert "not below the directory" in ended.stderr


def test_a_manifest_of_a_later_version_is_an_error_and_no_damage(copy: Path, whole: tuple[Path, Path]) -> None:
    path = first(copy, "cells/*/manifest.json")
    content = {**(sealed.read(path) or {}), "schema": sealed.SCHEMA + 1}
    content["checksum"] = sealed.checksum(content)
    path.write_text(sealed.to_json(content))
    before = path.read_bytes()
    ended = micro.invoke("run", whole[0], "--out", copy)
    assert ended.returncode == 2
    assert "later version" in ended.stderr
    assert path.read_bytes() == before
