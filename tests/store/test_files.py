"""Manifests, failures, tables and locks: complete or absent."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from peftodyssey.errors import StoreError
from peftodyssey.measures.registry import MEASURES
from peftodyssey.store import atomic, layout, lock, manifest, parquet, plans, tables

SCORES = {"test": {"index": "i", "before": "b", "after": "a"}, "valid": None, "general": []}


def test_a_manifest_lists_every_file_with_its_hash(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/a.bin").write_bytes(b"abc")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/state").write_bytes(b"x")
    manifest.fail(tmp_path, "earlier", "train")
    manifest.commit(tmp_path, {"kind": "cell"}, leave_out=("checkpoint",))
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["files"] == {"adapter/a.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert manifest.failure(tmp_path) is None


def test_a_result_whose_file_is_missing_is_not_complete(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    manifest.commit(tmp_path, {"kind": "score"})
    assert manifest.read(tmp_path) is not None
    (tmp_path / "a.bin").write_bytes(b"abd")
    assert list(manifest.damage(tmp_path)) == ["a.bin"]
    (tmp_path / "a.bin").unlink()
    assert manifest.read(tmp_path) is None


def test_a_writer_that_dies_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    atomic.write_text(path, "old")

    def write_half(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), atomic.atomic_write(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


def test_prepare_dir_empties_a_folder_except_what_is_kept(tmp_path):
    for name in ("half.parquet", "checkpoint"):
        (tmp_path / name).write_text("x")
    manifest.prepare_dir(tmp_path, keep=("checkpoint",))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_tables_have_the_defined_columns_and_refuse_others(tmp_path):
    parquet.write_rows(tmp_path / "t.parquet", [{"cell": "a", "lr": 1.0}], tables.RESULTS)
    assert pq.read_schema(tmp_path / "t.parquet").names == list(tables.RESULTS)
    with pytest.raises(AssertionError, match="nonsense"):
        parquet.write_rows(tmp_path / "t.parquet", [{"nonsense": 1}], tables.RESULTS)


def test_a_damaged_table_is_a_store_error_with_a_next_step(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(StoreError, match=r"cannot read .*\n.*run the recipe again"):
        parquet.read(tmp_path / "t.parquet")


def test_two_runs_cannot_lock_one_directory(tmp_path):
    with lock.exclusive(tmp_path), pytest.raises(StoreError, match="in use"), lock.exclusive(tmp_path):
        pass
    with lock.exclusive(tmp_path):
        pass


def test_the_newest_recipe_names_a_shared_cell(tmp_path):
    for name, created in (("b", "2026-01-01"), ("a", "2026-02-02")):
        plans.write(
            tmp_path,
            name,
            "1" * 8,
            {
                "recipe": name,
                "created": created,
                "measure": [],
                "cells": [{"cell": "x", "scores": SCORES, "coordinates": {}}],
            },
        )
    assert plans.cells(tmp_path) == [{"cell": "x", "scores": SCORES, "coordinates": {}, "recipe": "a", "measure": []}]


@pytest.mark.parametrize(("parts", "slug"), [(("a/b", None, "r=8"), "a-b-r-8"), (("..", "x"), "x"), (("é" * 3,), "")])
def test_slugs_are_safe_names(parts, slug):
    assert layout.slug(*parts) == slug


def test_documentation_has_every_column():
    every = tables.every_table(MEASURES)
    text = tables.markdown(every)
    assert all(f"`{name}`" in text for columns in every.values() for name in columns)
