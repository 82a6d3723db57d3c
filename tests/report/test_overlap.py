"""Overlap in the report: copies planted in a run's test text come back as a row and as a limit."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.demo_store import Fit, texts, write_corpus, write_run
from support.plans import collect

from peftodyssey.display.sources import ReportSources
from peftodyssey.store import layout

NAMES = ("notes, test", "notes, valid", "notes, train", "wiki_general, test")


def store(folder: Path, copied: int) -> Path:
    test, train = texts("notestest", 100), texts("a train of its own", 100)
    test[:copied] = train[:copied]
    write_run(
        folder,
        fits=lambda *_: [Fit("full", "full", 1e-3, -0.4, 0.1)],
        domains=("notes",),
        rungs=(64,),
        test_texts={"notes": test},
    )
    write_corpus(folder / "corpora/notes-train", train, "notes", "train")
    return folder


@pytest.mark.parametrize("copied", [0, 1, 5])
def test_planted_copies_come_back(copied: int, tmp_path: Path) -> None:
    collect(store(tmp_path, copied))
    rows = {(row["text"], row["other"]): row for row in pq.read_table(tmp_path / layout.TEXT_OVERLAP).to_pylist()}
    test, valid, train, general = NAMES
    assert set(rows) == {(test, train), (valid, train), (general, train), (test, valid)}
    planted = rows.pop((test, train))
    assert (planted["documents"], planted["exact"], planted["near"]) == (100, copied, 0)
    assert planted["share"] == copied / 100
    assert (planted["recipe"], planted["domain"]) == ("demo", "notes")
    assert {row["share"] for row in rows.values()} == {0.0}
    said = [text for text in ReportSources.of([tmp_path]).remarks() if "stand in" in text]
    assert [text.split(" stand")[0] for text in said] == ["notes, test: 5.0% of 100 documents"] * (copied > 1)
