"""How much of a training split is indexed: it follows the budget, and texts that differ share no stem."""

from __future__ import annotations

import pytest
from support.micro import write
from support.plans import load_recipe

from peftodyssey import api

RECIPE = """\
version: 1
name: caps
model: bundled/odyssey-3m
domains: [bundled/arxiv_cs.CL]
methods: [{method: lora, rank: 4, lr: 1e-3}]
train: {budget: %s, seq_len: 128, batch_tokens: 1024, schedule: wsd, warmup: 10 steps, eval_at: [100%%]}
measure: [degradation]
"""


def planned(path, budget):
    return api.plan(load_recipe(write(path, RECIPE % budget)), device="cpu")


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        ("200k tokens", 4_000_000),
        ("5M tokens", 5_000_000),
        ("300 steps", 4_000_000),
        ("10000 steps", 10_240_000),
        ("2 epochs", 20_000_000),
    ],
)
def test_the_cap_follows_the_budget(budget, cap, tmp_path):
    plan = planned(tmp_path, budget)
    [train] = [index for index in plan.indexes if index.folder == plan.cells[0].train_index]
    assert train.max_tokens == cap


def test_budgets_that_read_different_texts_share_no_stem(tmp_path):
    plan = planned(tmp_path, "[100k tokens, 200k tokens, 5M tokens, 6M tokens]")
    stems = {task.cell.train.budget_tokens: task.stem and task.stem.folder for task in plan.cells}
    assert stems[100_000] == stems[200_000] is not None
    assert stems[5_000_000] is stems[6_000_000] is None
    assert len({task.train_index for task in plan.cells}) == 3
