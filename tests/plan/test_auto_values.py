"""What `auto` becomes on a device, and what a device refuses."""

from __future__ import annotations

import pytest
from support.gpus import gpu
from support.plans import load_recipe

from peftodyssey.errors import InputError
from peftodyssey.memory.device import detect
from peftodyssey.plan.auto_values import resolve_auto
from peftodyssey.recipe.grid import cells

BF16_WEIGHTS = "model: gpt2\ndomains: [hub:a/b]\nmethods: [{method: full, master_weights: bf16}]\n"


def test_bf16_weights_are_refused_where_the_computation_is_fp32() -> None:
    (cell,) = cells(load_recipe(BF16_WEIGHTS))
    with pytest.raises(InputError) as caught:
        resolve_auto(cell, detect("cpu"))
    assert "master_weights" in caught.value.message
    assert "train.precision" in caught.value.next_step


def test_bf16_weights_are_kept_where_the_computation_is_bf16() -> None:
    (cell,) = cells(load_recipe(BF16_WEIGHTS))
    assert resolve_auto(cell, gpu(24))["master_weights"] == "bf16"
    (cell,) = cells(load_recipe(BF16_WEIGHTS, ["train.precision=bf16"]))
    assert resolve_auto(cell, detect("cpu"))["master_weights"] == "bf16"
