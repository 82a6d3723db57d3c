"""Every shipped recipe on bundled texts scores enough documents for intervals, on test and on general text."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftodyssey.jobs.bases import Bases
from peftodyssey.jobs.index import index as make
from peftodyssey.measure.stats import too_few
from peftodyssey.plan.build import build
from peftodyssey.plan.device import detect
from peftodyssey.recipe import shipped
from peftodyssey.recipe.load import load_recipe
from peftodyssey.store import layout, parquet

MEANINGLESS = ("smoke",)  # says so itself
OFFLINE = [
    name for name, _ in shipped.names()
    if name not in MEANINGLESS and not name.startswith("ladder-") and not any(word in shipped.read(name) for word in ("m2d2/", "hub:", "random/"))
]  # fmt: skip


@pytest.mark.parametrize("name", OFFLINE)
def test_no_interval_of_a_shipped_recipe_is_missing_for_want_of_documents(name: str, tmp_path: Path) -> None:
    plan, bases = build(load_recipe(name), detect("cpu")), Bases("cpu", 1 << 32)
    tokenizer = bases.tokenizer(plan.cells[0].base)
    notes = {}
    for index in plan.indexes:
        if index.split != "train" and index.split != "valid":
            make(index, tmp_path, tokenizer)
            notes[index.corpus.name] = too_few(parquet.read(tmp_path / index.folder / layout.DOCUMENTS)["tokens"].to_numpy().astype(float))
    assert notes
    assert not any(notes.values()), notes
