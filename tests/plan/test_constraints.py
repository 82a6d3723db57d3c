"""Constraints in a plan: what their copies take, which texts they may look at, who trains alone, which columns there
are.
"""

from __future__ import annotations

import pytest
from support.plans import build, load_recipe

from peftodyssey.errors import RecipeError
from peftodyssey.memory.device import detect
from peftodyssey.models import source
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.plan.host_and_disk import cell_host_plan
from peftodyssey.plan.multi_lora_groups import group_cells, why_not_batched

HEAD = """
model: {name: bundled/odyssey-3m, revisions: annealed-64M}
domains: [bundled/arxiv_cs.CL]
pretraining_text: bundled/pretrain_sample
"""


def plan(*methods, head=HEAD):
    return build(load_recipe(head + "methods:\n" + "".join(f"  - {method}\n" for method in methods)), detect("cpu"))


def terms(bill):
    return {term.name: term.size_bytes for term in bill.terms}


def test_the_start_of_the_weights_is_a_term_of_full_and_none_of_lora():
    free, pulled, ball, lora = plan(
        "{method: full}",
        "{method: full, l2_sp: 1}",
        "{method: full, norm_ball: 0.1}",
        "{method: lora, l2_sp: 1, norm_ball: 0.1}",
    ).cells
    start_bytes = 4 * shape_from_config(source.resolve("bundled/odyssey-3m").config).parameters
    assert terms(free.memory)["start weights"] == terms(lora.memory)["start weights"] == 0
    assert (
        start_bytes <= terms(pulled.memory)["start weights"] == terms(ball.memory)["start weights"] < 1.01 * start_bytes
    )
    assert pulled.memory.peak_allocated_bytes - free.memory.peak_allocated_bytes >= start_bytes


def test_weights_that_are_kept_are_terms_of_the_host():
    planned = plan(
        "{method: full}",
        "{method: full, early_stop: {}}",
        "{method: full, l2_sp: 1, early_stop: {}, wise_ft: 0.5}",
        "{method: lora, wise_ft: 0.5}",
    )
    kept_weights = [terms(cell_host_plan(planned, task))["kept weights"] for task in planned.cells]
    size = 4 * planned.cells[0].trainable
    assert kept_weights == [0, size, 2 * size, 0]


def test_replay_trains_on_a_train_part_and_an_early_stop_looks_at_a_validation_part():
    (task,) = plan("{method: full, replay: 10%, early_stop: {}}").cells
    indexes = {index.folder: index for index in plan("{method: full, replay: 10%, early_stop: {}}").indexes}
    assert (indexes[task.replay_index].corpus.name, indexes[task.replay_index].split) == ("pretrain_sample", "train")
    assert (indexes[task.early_stop_eval.index].corpus.name, indexes[task.early_stop_eval.index].split) == (
        "wiki_general",
        "valid",
    )
    assert task.early_stop_eval.index not in {column.index for column in task.scores}
    assert task.replay_index not in {column.index for column in task.scores}


def test_text_that_is_reported_is_not_trained_on(tmp_path):
    with pytest.raises(RecipeError, match="needs the train split of wiki_general"):
        plan("{method: full, replay: 10%}", head=HEAD.replace("pretraining_text: bundled/pretrain_sample", ""))
    (tmp_path / "notes.txt").write_text("\n".join(f"line {i} of some notes" for i in range(3000)))
    head = HEAD.replace("pretraining_text: bundled/pretrain_sample", f"general: [{tmp_path}/notes.txt]")
    for method, name in (("{method: full, replay: 10%}", "replay"), ("{method: full, early_stop: {}}", "early_stop")):
        with pytest.raises(RecipeError, match=f"{name} would use text of notes on which forgetting is reported"):
            plan(method, head=head)


@pytest.mark.parametrize("constraint", ["l2_sp: 1", "norm_ball: 0.1", "replay: 10%", "early_stop: {}"])
def test_a_held_adapter_trains_alone_and_a_scored_share_does_not(constraint):
    planned = plan(f"{{method: lora, rank: [2, 4], {constraint}}}", "{method: lora, rank: [2, 4], wise_ft: 0.5}")
    not_batched = [task.cell.method.label for task in planned.cells if why_not_batched(task)]
    assert len(not_batched) == 2
    assert all(constraint.split(":")[0] in label for label in not_batched)
    assert [len(group) for group in group_cells(planned, planned.cells)] == [2]


def test_each_share_has_columns_of_its_own_on_every_text():
    (task,) = plan("{method: full, wise_ft: [0, 0.5, 1]}").cells
    assert [one.options.share for one in task.measures] == [0.0] * 3 + [0.5] * 3 + [1.0] * 3
    after = {column.folder for column in task.scores}
    assert {one.folder for one in task.measures if one.options.share == 1} == after
    assert len({one.folder for one in task.measures} - after) == 6
    assert task.hash == plan("{method: full}").cells[0].hash
