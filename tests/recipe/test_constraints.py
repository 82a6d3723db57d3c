"""Constraints in a recipe: what is refused, and what of them is part of a cell's identity."""

from __future__ import annotations

import pytest
from support.plans import load_recipe
from support.recipes import FACTS, short

from peftodyssey.errors import RecipeError
from peftodyssey.recipe.grid import cells

HEAD = "model: gpt2\ndomains: [hub:a/b]\n"


def recipe(*methods, more=""):
    return load_recipe(HEAD + more + "methods:\n" + "".join(f"  - {method}\n" for method in methods))


@pytest.mark.parametrize(
    ("method", "more", "key", "allowed"),
    [
        ("{method: full, l2_sp: 1}", "train: {engine: trl}\n", "l2_sp", "engine: native"),
        ("{method: lora, norm_ball: 0.1}", "train: {engine: trl}\n", "norm_ball", "engine: native"),
        ("{method: full, replay: [0, 5%]}", "train: {engine: trl}\n", "replay", "engine: native"),
        ("{method: full, early_stop: {}}", "train: {engine: trl}\n", "early_stop", "engine: native"),
        ("{method: full, l2_sp: 1, master_weights: bf16}", "", "l2_sp", "master_weights: fp32"),
        ("{method: full, norm_ball: 0.1, master_weights: bf16}", "", "norm_ball", "master_weights: fp32"),
        ("{method: lora, l2_sp: 1, dora: true}", "", "l2_sp", "without dora"),
        ("{method: lora, wise_ft: 0.5, init: pissa}", "", "wise_ft", "default or gaussian"),
        ("{method: ia3, norm_ball: 0.1}", "", "norm_ball", "full, lora, qlora, bitfit, last_layers"),
        ("{method: full, replay: 100%}", "", "replay", "5%"),
        ("{method: full, wise_ft: 2}", "", "wise_ft", "between 0 and 1"),
        ("{method: full, replay: 10%}", "general: []\nmeasure: degradation\n", "replay", "pretraining_text"),
        ("{method: full, early_stop: {}}", "general: []\nmeasure: degradation\n", "early_stop", "general:"),
        (
            "{method: full, lr: {tune: [1e-4, 1e-3]}, early_stop: {}}",
            "train: {eval_at: 50%, schedule: wsd, select: {halving: 2}}\n",
            "early_stop",
            "remove one of the two",
        ),
        ("{method: full, master_weights: bf16}", "train: {precision: fp32}\n", "master_weights", "precision to bf16"),
        ("{method: full, master_weights: bf16}", "train: {precision: fp16}\n", "master_weights", "precision to bf16"),
    ],
)
def test_what_cannot_be_done_is_refused(method, more, key, allowed):
    with pytest.raises(RecipeError) as caught:
        recipe(method, more=more)
    (problem,) = caught.value.problems
    assert problem.key == f"methods[0].{key}"
    assert allowed in problem.allowed + problem.next_step


def test_trl_trains_what_a_share_of_is_scored():
    assert cells(recipe("{method: full, wise_ft: 0.5}", more="train: {engine: trl}\n"))


def test_a_constraint_at_its_default_is_no_constraint():
    plain, written_out = cells(recipe("full")), cells(recipe("{method: full, l2_sp: 0, replay: 0%, wise_ft: []}"))
    assert plain == written_out


def test_a_share_of_the_update_is_scored_and_is_no_other_training():
    (once,) = cells(recipe("full", "{method: full, wise_ft: [50%, 0.25]}", "{method: full, wise_ft: 0.75}"))
    assert once.method.options["wise_ft"] == (0.25, 0.5, 0.75)
    assert short(once) == short(*cells(recipe("full")))
    assert once.method.label == "full"


def test_the_text_beside_a_training_is_named_and_enters_by_its_content():
    replayed, stopped = cells(
        recipe("{method: full, replay: 10%}", "{method: full, early_stop: {}}", more="pretraining_text: hub:p/q\n")
    )
    assert (replayed.replay.source, replayed.early_stop_text) == ("hub:p/q", None)
    assert (stopped.replay, stopped.early_stop_text.source) == (None, "bundled/wiki_general")
    for cell, name in ((replayed, "replay"), (stopped, "early_stop")):
        with pytest.raises(KeyError):
            short(cell, {key: value for key, value in FACTS.items() if key != name})
        assert short(cell, {**FACTS, name: "one"}) != short(cell, {**FACTS, name: "another"})
    without = cells(recipe("{method: full, replay: 10%}"))[0]
    assert without.replay.source == "bundled/wiki_general"


def test_labels_say_what_holds_the_update():
    all_cells = cells(
        recipe(
            "{method: full, l2_sp: [1, 1e3]}",
            "{method: full, early_stop: {general: 0.5}, norm_ball: 1e-2}",
            "{method: lora, replay: 20%}",
        )
    )
    assert [cell.method.label for cell in all_cells] == [
        "full l2_sp=1",
        "full l2_sp=1000",
        "full norm_ball=0.01 early_stop=0.5",
        "lora r=8 replay=0.2",
    ]
