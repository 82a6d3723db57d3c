"""A small good recipe, and how to ask for the problems of a bad one."""

import pytest
from support.plans import load_recipe

from peftodyssey.errors import RecipeError
from peftodyssey.recipe.identity import digest, identity

GOOD = """\
name: demo
model: bundled/odyssey-3m
domains: [bundled/arxiv_cs.CL]
methods:
  - {method: full, lr: {tune: [1e-4, 1e-3]}}
  - {method: lora, rank: [2, 8]}
"""

MINIMAL = "model: gpt2\ndomains: [hub:some/text]\nmethods: [full]\n"


def problems(text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(text, overrides)
    return caught.value.problems


def only(text, *overrides):
    mistakes = problems(text, *overrides)
    assert len(mistakes) == 1, [str(p) for p in mistakes]
    return mistakes[0]


FACTS = {
    "model": "m",
    "tokenizer": "t",
    "domain": "d",
    "precision": "fp32",
    "compute_dtype": "fp32",
    "optimizer": "adamw",
    "optimizer_state": "fp32",
    "master_weights": "fp32",
    "saved": "s",
    "replay": "r",
    "early_stop": "e",
}


def short(cell, facts=FACTS):
    return digest(identity(cell, facts))[:16]
