"""Constraints in a recipe: what is refused, what a cell's identity holds of them, and what a share of an update is not."""

from __future__ import annotations

import pytest
from support.recipes import FACTS, short

from peftodyssey.errors import RecipeError
from peftodyssey.recipe.grid import cells
from peftodyssey.recipe.load import load_recipe

HEAD = "model: gpt2\ndomains: [hub:a/b]\n"


def recipe(*methods, more=""):
    return load_recipe(HEAD + more + "methods:\n" + "".join(f"  - {method}\n" for method in methods))


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("{method: full, l2_sp: 1}", "train: {engine: trl}\n", "TRL's trainer has no l2_sp"),
        ("{method: lora, norm_ball: 0.1}", "train: {engine: trl}\n", "TRL's trainer has no norm_ball"),
        ("{method: full, replay: [0, 5%]}", "train: {engine: trl}\n", "TRL's trainer has no replay"),
        ("{method: full, early_stop: {}}", "train: {engine: trl}\n", "TRL's trainer has no early_stop"),
        ("{method: full, l2_sp: 1, master_weights: bf16}", "", "round such small corrections away"),
        ("{method: full, norm_ball: 0.1, master_weights: bf16}", "", "round such small corrections away"),
        ("{method: lora, l2_sp: 1, dora: true}", "", "not a product that starts at 0"),
        ("{method: lora, wise_ft: 0.5, init: pissa}", "", "not a product that starts at 0"),
        ("{method: ia3, norm_ball: 0.1}", "", "no such key"),
        ("{method: full, replay: 100%}", "", "must be below 1"),
        ("{method: full, wise_ft: 2}", "", "must lie between 0 and 1"),
        ("{method: full, replay: 10%}", "general: []\nmeasure: degradation\n", "there is no text to replay"),
        (
            "{method: full, early_stop: {}}",
            "general: []\nmeasure: degradation\n",
            "no general text that could become worse",
        ),
        (
            "{method: full, lr: {tune: [1e-4, 1e-3]}, early_stop: {}}",
            "train: {eval_at: 50%, select: {halving: 2}}\n",
            "a step of its own",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_words(method, more, words):
    with pytest.raises(RecipeError, match=words):
        recipe(method, more=more)


def test_trl_trains_what_a_share_of_is_scored():
    assert cells(recipe("{method: full, wise_ft: 0.5}", more="train: {engine: trl}\n"))


def test_a_constraint_at_its_default_is_no_constraint():
    plain, spelt = cells(recipe("full")), cells(recipe("{method: full, l2_sp: 0, replay: 0%, wise_ft: []}"))
    assert plain == spelt


def test_a_share_of_the_update_is_scored_and_is_no_other_training():
    (once,) = cells(recipe("full", "{method: full, wise_ft: [50%, 0.25]}", "{method: full, wise_ft: 0.75}"))
    assert once.method.options["wise_ft"] == (0.25, 0.5, 0.75)
    assert short(once) == short(*cells(recipe("full")))
    assert once.method.label == "full"


def test_the_text_beside_a_training_is_named_and_enters_by_its_content():
    held, stopped = cells(
        recipe("{method: full, replay: 10%}", "{method: full, early_stop: {}}", more="pretraining_text: hub:p/q\n")
    )
    assert (held.replay.source, held.early_stop_text) == ("hub:p/q", None)
    assert (stopped.replay, stopped.early_stop_text.source) == (None, "bundled/wiki_general")
    for cell, name in ((held, "replay"), (stopped, "early_stop")):
        with pytest.raises(KeyError):
            short(cell, {key: value for key, value in FACTS.items() if key != name})
        assert short(cell, {**FACTS, name: "one"}) != short(cell, {**FACTS, name: "another"})
    without = cells(recipe("{method: full, replay: 10%}"))[0]
    assert without.replay.source == "bundled/wiki_general"


def test_labels_say_what_holds_the_update():
    found = cells(
        recipe(
            "{method: full, l2_sp: [1, 1e3]}",
            "{method: full, early_stop: {general: 0.5}, norm_ball: 1e-2}",
            "{method: lora, replay: 20%}",
        )
    )
    assert [cell.method.label for cell in found] == [
        "full l2_sp=1",
        "full l2_sp=1000",
        "full norm_ball=0.01 early_stop=0.5",
        "lora r=8 replay=0.2",
    ]
