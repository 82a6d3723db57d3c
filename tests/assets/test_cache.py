"""Bundled models in the user's cache: complete, repaired, safe for many processes, with clear errors."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peftodyssey import assets
from peftodyssey.assets import cache
from peftodyssey.errors import StoreError

MODEL = "odyssey-3m"
ROOT = Path(__file__).parents[2]
SMALL = {"README.md", "config.json", "ladder.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache"
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(folder))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def forget() -> None:
    """As in a new process."""
    cache._verified.clear()


@pytest.mark.parametrize("rung", assets.rungs(MODEL))
def test_every_rung_is_complete(rung: str) -> None:
    folder = assets.unpack_model(MODEL, rung)
    assert {path.name for path in folder.iterdir()} == SMALL | {"model.safetensors"}
    assert sha256(folder / "model.safetensors") == assets.model_sha256(MODEL, rung)
    assert (folder / "model.safetensors").stat().st_size == assets.model_bytes(MODEL, rung)


def test_the_weights_open_as_safetensors() -> None:
    safetensors = pytest.importorskip("safetensors")
    path = assets.unpack_model(MODEL) / "model.safetensors"
    with safetensors.safe_open(path, "numpy") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    count = 0
    for shape in shapes:
        size = 1
        for width in shape:
            size *= width
        count += size
    assert count == assets.ladder(MODEL)["parameters"]


def test_the_default_rung_is_the_longest_annealed_one() -> None:
    assert assets.unpack_model(MODEL) == assets.unpack_model(MODEL, "annealed-1024M")


def test_small_files_come_without_weights(own_cache: Path) -> None:
    assert {path.name for path in assets.model_files(MODEL).iterdir()} == SMALL
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_second_use_writes_nothing() -> None:
    folder = assets.unpack_model(MODEL)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    forget()
    assert assets.unpack_model(MODEL) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "shorter": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "flipped": flip_a_byte,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("new_process", [True, False])
def test_damage_is_repaired(damage: str, new_process: bool) -> None:
    path = assets.unpack_model(MODEL) / "model.safetensors"
    DAMAGE[damage](path)
    if new_process:
        forget()
    assert assets.unpack_model(MODEL) == path.parent
    assert sha256(path) == assets.model_sha256(MODEL)


def test_a_removed_folder_comes_back() -> None:
    folder = assets.model_files(MODEL)
    shutil.rmtree(folder)
    assert {path.name for path in assets.model_files(MODEL).iterdir()} == SMALL


def test_many_processes_at_once(own_cache: Path) -> None:
    code = (
        "import hashlib; from peftodyssey import assets; "
        "path = assets.unpack_model('odyssey-3m') / 'model.safetensors';"
        "print(hashlib.sha256(path.read_bytes()).hexdigest())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in started]
    assert outputs == [assets.model_sha256(MODEL)] * 4
    folder = assets.unpack_model(MODEL)
    assert {path.name for path in folder.iterdir()} == SMALL | {"model.safetensors"}, "temporary files are left"


def test_a_cache_that_is_a_file(own_cache: Path) -> None:
    own_cache.write_text("in the way")
    with pytest.raises(StoreError, match="PEFTODYSSEY_CACHE"):
        assets.unpack_model(MODEL)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission(own_cache: Path) -> None:
    own_cache.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        assets.model_files(MODEL)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        assets.unpack_model(MODEL)
    assert not [path for path in own_cache.rglob("*") if path.is_file()], "temporary files are left"


def test_a_damaged_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_content", lambda *_: b"something else")
    with pytest.raises(StoreError, match="installed package is damaged"):
        assets.model_files(MODEL)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert assets.cache_folder() == tmp_path / "a cache"
    monkeypatch.delenv("PEFTODYSSEY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert assets.cache_folder() == tmp_path / "shared" / "peftodyssey"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert assets.cache_folder() == tmp_path / ".cache" / "peftodyssey"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert assets.cache_folder() == tmp_path / "Library" / "Caches" / "peftodyssey"


def test_the_reader_needs_nothing_installed() -> None:
    code = (
        "import sys; from peftodyssey import assets; assets.models(); assets.open_corpus('boolq', 'test');"
        "print(sorted({n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not {"torch", "numpy", "yaml", "pydantic", "transformers"} & set(ast.literal_eval(out))
