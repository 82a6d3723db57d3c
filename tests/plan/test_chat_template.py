"""Conversations in a recipe: they need a template, which is part of what is trained on, and hold their own special
tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import micro

from peftodyssey import api
from peftodyssey.errors import RecipeError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
RECIPE = (
    micro.RECIPE.replace("bundled/arxiv_cs.CL", "{name: talk, path: talk.jsonl}")
    .replace("eval_at: [50%, 100%]", "objective: sft, chat_template: plain")
    .replace("  - {method: full, lr: {tune: [1e-4, 1e-3]}}\n", "")
)


def plan(folder: Path, text: str):
    rows = [{"messages": [{"role": "user", "content": f"Hi {n}"}, TALK[1]]} for n in range(40)]
    (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return api.plan(micro.write(folder, text))


def test_a_model_without_a_template_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"talk has conversations, and bundled/odyssey-3m has no chat template[^\n]*\n.*chat_template: plain",
    ):
        plan(tmp_path, RECIPE.replace(", chat_template: plain", ""))
    with pytest.raises(RecipeError, match=r"none.jinja cannot be read"):
        plan(tmp_path, RECIPE.replace("template: plain", "template: none.jinja"))


def test_the_template_is_part_of_the_cell_and_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(
        "{% for m in messages %}{{ m.role }}|{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    one, two = plan(tmp_path, RECIPE), plan(tmp_path, RECIPE.replace("template: plain", "template: mine.jinja"))
    assert one.cells[0].hash != two.cells[0].hash
    assert one.cells[0].train_index != two.cells[0].train_index
    chat = next(index.chat for index in one.indexes if index.folder == one.cells[0].train_index)
    assert chat.special["eos_token"] == "<|endoftext|>"
    assert one.cells[0].scores[0].settings.first_token == "skip", "the template writes what stands first"
    general = next(column for column in one.cells[0].scores if "wiki_general" in column.index)
    assert general.settings.first_token == "bos"


def test_a_task_changes_no_cell_and_shares_the_base(tmp_path: Path) -> None:
    without, with_task = (
        plan(tmp_path, RECIPE),
        plan(tmp_path, RECIPE + "tasks: [{source: bundled/boolq, examples: 5}]\n"),
    )
    assert [task.hash for task in without.cells] == [task.hash for task in with_task.cells]
    assert [task.folder for task in without.cells] == [task.folder for task in with_task.cells]
    assert len(with_task.measures) == 2  # the base, and the quantised one
    assert len({task.measures[0].folder for task in with_task.cells}) == len(with_task.cells)
    assert set(without.cells[0].entry["measures"]) == {"contrast"}
