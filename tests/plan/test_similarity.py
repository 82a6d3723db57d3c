"""What likeness is measured on: planned once a base and text, below no cell, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import micro
from support.plans import build, load_recipe

from peftodyssey.corpora.source import text_group
from peftodyssey.errors import RecipeError
from peftodyssey.memory.device import detect
from peftodyssey.recipe.cell import CorpusSpec

SAMPLE = "pretraining_text=bundled/pretrain_sample"


def planned(folder: Path, *overrides: str):
    return build(load_recipe(str(micro.write(folder)), overrides), detect())


def test_each_base_and_text_is_read_once_and_no_cell_changes(tmp_path: Path) -> None:
    plain, plan = planned(tmp_path), planned(tmp_path, SAMPLE, "measure=[degradation, forgetting, similarity]")
    assert [task.hash for task in plan.cells] == [task.hash for task in plain.cells]
    assert (len(plan.measures), len(plain.measures)) == (2, 0)
    text, sample = plan.measures
    assert (text.options.halves, sample.options.halves) == (False, True)
    assert (text.options.layer, text.options.chunks, text.options.chunk_tokens) == (-1, 200, 64)
    assert [task.needs for task in plan.measures] == [(task.options.index,) for task in plan.measures]
    entries = [cell.entry["measures"]["similarity"] for cell in plan.cells]
    assert {(entry["text"], entry["reference"]) for entry in entries} == {(text.folder, sample.folder)}, (
        "a quantised base is read unquantised"
    )
    assert all(
        entry["index"] == cell.entry["scores"]["test"]["index"] for entry, cell in zip(entries, plan.cells, strict=True)
    )
    assert {(text.folder, sample.folder, sample.options.index)} == {cell.reads for cell in plan.cells}
    assert "similarity" not in plain.cells[0].entry.get("measures", {})


def test_options_are_part_of_what_is_read(tmp_path: Path) -> None:
    def folders(options: str) -> set[str]:
        plan = planned(tmp_path, SAMPLE, f"measure=[degradation, {{similarity: {{{options}}}}}]")
        return {task.folder for task in plan.measures}

    every = [folders(options) for options in ("layer: -1", "layer: 1", "chunks: 100", "chunk_tokens: 32")]
    assert not set.intersection(*every)
    assert len(set.union(*every)) == 8
    layers = planned(tmp_path).cells[0].shape.layers
    assert folders(f"layer: {layers}") == every[0], "two names of the last layer"
    assert folders("layer: 0") == folders(f"layer: {-layers - 1}"), "and of the embeddings"


@pytest.mark.parametrize(
    ("options", "message"),
    [("layer: 99", "no layer 99"), ("chunk_tokens: 2k", "positions"), ("chunk_tokens: 8", "16 tokens or more")],
)
def test_what_cannot_be_is_said_with_its_place(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        planned(tmp_path, SAMPLE, f"measure=[degradation, {{similarity: {{{options}}}}}]")
    assert "measure" in str(caught.value)


def test_a_layer_and_a_length_are_wrong_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no layer 99; similarity\.chunk_tokens is 2,000,") as caught:
        planned(tmp_path, SAMPLE, "measure=[{similarity: {layer: 99, chunk_tokens: 2k}}]")
    assert "next: use -1 for the last; use 64" in str(caught.value)


def test_without_a_pretraining_text_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="add pretraining_text"):
        planned(tmp_path, "measure=[similarity]")


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("arxiv_cs.CL", "bundled/arxiv_cs.CL", "arxiv"),
        ("wiki_culture_arts", "bundled/wiki_culture_arts", "wiki"),
        ("Notes-2024", "/a/b.txt", "notes"),
        ("Culture_and_the_arts", "m2d2/Culture_and_the_arts", "wikipedia"),
        ("x", "m2d2/History_and_events__By_period", "wikipedia"),
        ("Art", "m2d2/Art", "s2orc"),
        ("cs.CL", "m2d2/cs.CL", "s2orc"),
    ],
)
def test_groups_are_the_first_part_of_a_name(name: str, source: str, expected: str) -> None:
    assert text_group(CorpusSpec(name, source)) == expected
