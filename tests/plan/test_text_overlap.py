"""Overlap between the texts of a recipe: counted by check, taken out by `dedupe`, refused where it is one file."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from support.micro import write
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.corpora.index import indexed_texts
from peftodyssey.errors import RecipeError
from peftodyssey.jobs.index import index
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.plan.text_overlap import overlap_lines, overlaps
from peftodyssey.store import manifest

RECIPE = """\
version: 1
name: overlap
model: bundled/odyssey-3m
domains: [{name: mine, path: mine%s}]
general: [%s]
methods: [{method: lora, rank: 4, lr: 1e-3}]
train: {budget: 2 steps, seq_len: 128, batch_tokens: 256}
score: {context: 128, tokens: 50k}
measure: [degradation, forgetting]
"""


def texts(count, side):
    draw = random.Random(side)
    return [" ".join(f"{draw.randrange(3000)}" for _ in range(60)) for _ in range(count)]


def folder(path, copied=0, near=0):
    """A folder of splits whose 200 test documents hold copies of training documents, exact and changed ones."""
    train, test = texts(400, "a"), texts(200, "b")
    test[:copied] = train[:copied]
    changed = (text.split() for text in train[200 : 200 + near])
    test[100 : 100 + near] = [" ".join([*words[:20], "other", *words[21:]]) for words in changed]
    for split, rows in (("train", train), ("valid", texts(60, "c")), ("test", test)):
        (path / "mine").mkdir(exist_ok=True)
        (path / "mine" / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))


def plan(path, more="", general="bundled/wiki_general"):
    return api.plan(load_recipe(write(path, RECIPE % (more, general))), device="cpu")


def test_planted_copies_are_counted_within_a_point_and_warned_of(tmp_path):
    folder(tmp_path, copied=5, near=5)
    found = {(text, other): overlap for text, other, overlap in overlaps(plan(tmp_path))}
    planted = found.pop(("mine, test", "mine, train"))
    assert (planted.documents, planted.exact, planted.near) == (200, 5, 5)
    assert set(found) == {
        ("mine, valid", "mine, train"),
        ("wiki_general, test", "mine, train"),
        ("mine, test", "mine, valid"),
    }
    assert {overlap.share for overlap in found.values()} == {0.0}
    clean, warning = overlap_lines(plan(tmp_path))
    assert clean.startswith("overlap: at most 1% of the documents stand in another text (mine, valid in mine, train")
    assert warning.startswith("warning: mine, test: 5.0% of 200 documents stand in mine, train (5 word for word, 5 for")
    assert "`dedupe: test`" in warning


def test_disjoint_texts_are_one_line(tmp_path):
    folder(tmp_path)
    assert len(list(overlap_lines(plan(tmp_path)))) == 1


def indexed(path, more):
    """(texts by split as they are trained and scored, counts of what was left out), of the domain."""
    planned = plan(path, more)
    [cell] = planned.cells
    scored = {column.index for column in cell.scores} | {str(cell.train_index)}
    tokenizer = load_tokenizer(cell.base.source)
    found, left_out = {}, {}
    for task in sorted(planned.indexes, key=lambda task: bool(task.apart_from)):
        index(task, path / "run", tokenizer)
        if task.folder in scored:
            name = (task.corpus.name, task.split)
            found[name] = [text for _, text in indexed_texts(path / "run" / task.folder)]
            left_out[name] = manifest.read(path / "run" / task.folder)["facts"]["left_out"]
    return found, left_out, cell


def test_dedupe_takes_copies_out_of_one_side(tmp_path):
    folder(tmp_path, copied=7, near=3)
    kept, none, plain = indexed(tmp_path, "")
    of_test, left_test, cell_test = indexed(tmp_path, ", dedupe: test")
    of_train, left_train, cell_train = indexed(tmp_path, ", dedupe: train")
    assert len({plain.hash, cell_test.hash, cell_train.hash}) == 3
    assert {key: len(rows) for key, rows in kept.items() if key[0] == "mine"} == {
        ("mine", "train"): 400,
        ("mine", "valid"): 60,
        ("mine", "test"): 200,
    }
    assert not any(none.values())
    assert (len(of_test["mine", "train"]), len(of_test["mine", "test"])) == (400, 190)
    assert left_test["mine", "test"] == {"overlap": 10}
    assert (len(of_train["mine", "train"]), len(of_train["mine", "test"])) == (390, 200)
    assert left_train["mine", "train"] == {"overlap": 10}
    gone = Counter(kept["mine", "train"]) - Counter(of_train["mine", "train"])
    assert set(gone) == {*texts(400, "a")[:7], *texts(400, "a")[200:203]}


def test_one_file_as_domain_and_general_is_an_error(tmp_path):
    folder(tmp_path)
    with pytest.raises(RecipeError, match=r"same text as the domain mine.*test\.jsonl"):
        plan(tmp_path, general="{name: same, path: mine/test.jsonl}")
    with pytest.raises(RecipeError, match=r"same text as the domain"):
        plan(tmp_path, general="{name: same, path: mine}")


def test_dedupe_beside_other_texts_is_an_error(tmp_path):
    folder(tmp_path)
    (tmp_path / "other.txt").write_text("word " * 100)
    with pytest.raises(RecipeError, match="nothing is trained on this text"):
        plan(tmp_path, general="{path: other.txt, dedupe: test}")
