"""The recipe beside a published table of ranks: its setting is that of the table, and it fits its GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.gpus import GIB, gpu
from support.plans import build, load_recipe

from peftodyssey.recipe import bundled

NAME = "tulu-sft-1b"
SCIENCE = Path(__file__).parents[2] / "docs/science.md"


@pytest.fixture
def conversations(tmp_path: Path) -> str:
    """Rows of `messages`, as the dataset has them."""
    rows = (
        {"messages": [{"role": "user", "content": f"{i} + {i}?"}, {"role": "assistant", "content": f"It is {2 * i}."}]}
        for i in range(400)
    )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return f"{{name: tulu3, path: {path}, split: {{valid: 10%, test: 10%}}}}"


def test_it_has_the_setting_of_the_table_and_fits(conversations: str) -> None:
    overrides = ["model=random/llama-3.2-1b", f"domains=[{conversations}]"]
    plan = build(load_recipe(NAME, overrides), gpu(24, host_gib=16), 22 * GIB)
    assert plan.too_large == ()
    lora = [task.cell for task in plan.cells if task.cell.method.method == "lora"]
    assert {cell.method.rank for cell in lora} == {4, 16, 64, 128}
    assert {cell.method.alpha for cell in lora} == {32}
    assert 1e-3 in {cell.method.lr for cell in lora}
    assert {(cell.train.budget_steps, cell.train.objective) for cell in lora} == {(780, "sft")}
    assert {task.shape.layers for task in plan.cells} == {16}


def test_the_table_is_the_same_in_recipe_and_documentation() -> None:
    for number in (".8162", ".7948", ".7802", ".7763"):
        assert number in bundled.read(NAME)
        assert number in SCIENCE.read_text(encoding="utf-8")
