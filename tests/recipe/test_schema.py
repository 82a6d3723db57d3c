"""The JSON Schema for editors agrees with what is loaded."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator
from support.plans import load_recipe
from support.recipes import GOOD, MINIMAL

from peftodyssey.errors import RecipeError
from peftodyssey.measures.registry import SPECS
from peftodyssey.recipe import bundled
from peftodyssey.recipe.schema import json_schema

VALIDATOR = Draft202012Validator(json_schema(SPECS))

GOOD_ONES = [
    GOOD,
    MINIMAL,
    MINIMAL + "seeds: 3\nmeasure: tokens\ngeneral: []\nscore: {tokens: all}\n",
    MINIMAL + "train: {budget: 1.5 epochs, eval_at: 50%, batch_tokens: 4k, warmup: 0.1}\n",
    MINIMAL + "measure: [noise]\n",
    MINIMAL + "measure: [tokens, {noise: {gammas: 0.1, ranks: [1, full], updates: true, quantisers: nf4}}]\n",
    "model: [gpt2, {name: x/y, revisions: main}]\nmethods: lora\n"
    "domains: {path: x, split: {test: 10%, valid: validation}}\n",
    "model: {name: x/y, weights: bin, revisions: {tokens: [64M, 1B], arm: annealed}}\ndomains: x\nmethods: lora\n",
    "model: {name: x/y, revisions: {every: 250B, from: 0.5T, to: 3T, arm: [a, b]}}\ndomains: x\nmethods: lora\n",
    "model: gpt2\ndomains: x\nmethods:\n"
    "  - {method: lora, alpha: [2r, 16], targets: [[a, b], all-linear], lr: {tune: 0.001}}\n",
    "model: gpt2\ndomains: x\nmethods:\n"
    "  - {method: lora, init: [pissa_niter_4, default], dora: [true, false]}\n"
    "  - {method: peft, peft_type: VERA, config: {r: 1}}\n",
]
BAD_ONES = [
    "model: {name: x/y, revisions: {tokens: [64M], evry: 3}}\ndomains: x\nmethods: full\n",
    "model: {name: x/y, revisions: {tokens: sixty}}\ndomains: x\nmethods: full\n",
    "model: {name: x/y, weights: pickle}\ndomains: x\nmethods: full\n",
    MINIMAL + "seed: 3\n",
    MINIMAL + "train: {schedule: cosin}\n",
    MINIMAL + "train: {budget: 200k}\n",
    MINIMAL + "measure: [likeness]\n",
    MINIMAL + "measure: [{noise: {gamas: [1]}}]\n",
    MINIMAL + "measure: [{}]\n",
    MINIMAL + "domains: {newline: no}\n".replace("domains", "general"),
    "domains: x\nmethods: full\n",
    "model: gpt2\ndomains: x\nmethods: [{method: lora, rnk: 3}]\n",
    "model: gpt2\ndomains: x\nmethods: [{method: full, quant: nf4}]\n",
    "model: gpt2\ndomains: x\nmethods: [{method: saved}]\n",
    "model: gpt2\ndomains: x\nmethods: []\n",
]


def test_it_is_a_json_schema():
    Draft202012Validator.check_schema(json_schema(SPECS))
    assert json.loads(json.dumps(json_schema(SPECS))) == json_schema(SPECS)


@pytest.mark.parametrize("name", [name for name, _ in bundled.names()])
def test_bundled_recipes_are_valid(name):
    VALIDATOR.validate(yaml.safe_load(bundled.read(name)))


@pytest.mark.parametrize("text", GOOD_ONES)
def test_what_loads_is_valid(text):
    load_recipe(text)
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", BAD_ONES)
def test_what_does_not_load_is_not_valid(text):
    with pytest.raises(RecipeError):
        load_recipe(text)
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def test_every_property_has_a_description():
    schema = json_schema(SPECS)
    for owner in (schema, *schema["$defs"].values()):
        for name, field in owner.get("properties", {}).items():
            assert field.get("description"), (owner["title"], name)
