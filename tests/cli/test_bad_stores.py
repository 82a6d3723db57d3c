"""Every verb on every directory that is none, or is damaged: a sentence that is meant, and a documented exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import micro
from support.demo_store import write_run

from peftodyssey import api
from peftodyssey.store import sealed

VERBS: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "status": lambda store, _: ("status", store),
    "report": lambda store, _: ("report", store),
    "query": lambda store, _: ("query", store, "select * from tokens"),
    "query results": lambda store, _: ("query", store, "select * from results"),
    "query views": lambda store, _: ("query", store),
    "export": lambda store, to: ("export", store, "best", "--to", to),
    "export by name": lambda store, to: ("export", store, "label=full", "--to", to),
    "check": lambda store, _: ("check", store),
    "check --repair": lambda store, _: ("check", store, "--repair"),
    "score": lambda store, _: ("score", store, "bundled/wiki_general"),
    "run": lambda store, _: ("run", store),
}


def every(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        for path in store.glob(pattern):
            change(path)

    return damage


def sealed_as(**changes: object) -> Callable[[Path], object]:
    """Another content with a checksum of its own, as a stranger could write it."""
    return lambda path: sealed.write(path, {**(sealed.read(path) or {}), **changes})


def in_cells(**changes: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        plan = sealed.read(path) or {}
        sealed.write(path, {**plan, "cells": [{**cell, **changes} for cell in plan["cells"]]})

    return change


STORES: dict[str, Callable[[Path], object]] = {
    "a folder of something else": lambda store: [shutil.rmtree(store), store.mkdir(), (store / "a.txt").touch()],
    "nothing": shutil.rmtree,
    "a file": lambda store: [shutil.rmtree(store), store.write_text("x")],
    "plans that are no JSON": every("plans/*.json", lambda path: path.write_text("{")),
    "plans that are empty": every("plans/*.json", lambda path: path.write_bytes(b"")),
    "plans that are lists": every("plans/*.json", lambda path: path.write_text("[]")),
    "plans nested deeply": every("plans/*.json", lambda path: path.write_text("[" * 100_000)),
    "plans without cells": every("plans/*.json", sealed_as(cells=[])),
    "plans with cells of another kind": every("plans/*.json", sealed_as(cells=[1, None, "x"])),
    "plans with cells of nothing": every("plans/*.json", sealed_as(cells=[{}])),
    "plans with scores of another kind": every("plans/*.json", in_cells(scores=[])),
    "plans with scores of nothing": every("plans/*.json", in_cells(scores={})),
    "plans that name folders outside": every("plans/*.json", in_cells(folder="/etc")),
    "plans that are folders": every("plans/*.json", lambda path: [path.unlink(), path.mkdir()]),
    "plans that are pipes": every("plans/*.json", lambda path: [path.unlink(), os.mkfifo(path)]),
    "manifests that are no JSON": every("*/*/manifest.json", lambda path: path.write_text("{")),
    "manifests without files": every("*/*/manifest.json", lambda path: path.write_text('{"files": []}')),
    "manifests of nothing": every("*/*/manifest.json", lambda path: path.write_text("{}")),
    "manifests without facts": every("cells/*/manifest.json", sealed_as(facts={})),
    "manifests with facts of another kind": every("cells/*/manifest.json", sealed_as(facts=[1])),
    "manifests with long numbers": every(
        "cells/*/manifest.json", lambda path: path.write_text(json.dumps({"files": {}, "facts": {"seconds": 10**400}}))
    ),
    "manifests that are pipes": every("*/*/manifest.json", lambda path: [path.unlink(), os.mkfifo(path)]),
    "indexes of nothing": every("corpora/*/index.parquet", lambda path: path.write_bytes(b"")),
    "no tables": every("*.parquet", Path.unlink),
    "tables that are no parquet": every("*.parquet", lambda path: path.write_bytes(b"PAR1")),
    "a record of nothing": lambda store: (store / "tables.json").write_text("{}"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("whole") / "out", domains=("notes",), rungs=(64,), documents=8)
    api.report([folder])
    return folder


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] * (number % 8 != 0)) for number, what in enumerate(STORES)]
)
def test_every_verb_says_what_is_wrong(what: str, whole: Path, tmp_path: Path) -> None:
    for verb, arguments in VERBS.items():
        store = tmp_path / "store"
        shutil.rmtree(store, ignore_errors=True)
        store.unlink(missing_ok=True)
        shutil.copytree(whole, store)
        STORES[what](store)
        ended = micro.invoke(*arguments(store, tmp_path / "exported"))
        told = f"{verb} on {what}: {ended.returncode}\n{ended.stdout[-400:]}\n{ended.stderr[-400:]}"
        assert ended.returncode in (0, 1, 2), told
        assert "Traceback" not in ended.stderr, told
        assert "not expected" not in ended.stderr, told
        assert ended.returncode or verb not in ("score", "run"), told
