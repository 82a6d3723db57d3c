"""The hash of a cell covers what changes its result and nothing else, and does not change between versions."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import load_recipe
from support.recipes import FACTS, MINIMAL, short

from peftodyssey.recipe import identity as module
from peftodyssey.recipe.bundled import names
from peftodyssey.recipe.cell import (
    Cell,
    CorpusSpec,
    MethodSpec,
    ModelSpec,
    QuantSpec,
    TaskSpec,
    TrainSpec,
)
from peftodyssey.recipe.grid import cells
from peftodyssey.recipe.identity import canonical, digest

# First 16 digits of the hash of each cell, in grid order, with FACTS. A recipe whose numbers change on purpose gets a
# new list; any other change would separate every stored result from its cell.
GOLDEN = json.loads((Path(__file__).parent / "golden_hashes.json").read_text())

CELL = cells(load_recipe(MINIMAL.replace("[full]", "[{method: qlora, lr: {tune: [1e-3, 2e-3]}}]")))[0]


@pytest.mark.parametrize("name", [name for name, _ in names()])
def test_hashes_of_the_bundled_recipes_do_not_change(name):
    assert [short(cell) for cell in cells(load_recipe(name))] == GOLDEN[name]


def test_hashes_do_not_depend_on_the_process():
    code = """
from support.recipes import short
from peftodyssey.recipe.grid import cells
from support.plans import load_recipe
print([short(cell) for cell in cells(load_recipe("your-text"))])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path)), "LC_ALL": locale},
        ).stdout
        for seed, locale in (("0", "C"), ("1", "C"), ("4242", "C.UTF-8"))
    }
    assert outputs == {f"{GOLDEN['your-text']}\n"}


ANOTHER = {
    Cell: {
        "model": ModelSpec("a", None, 9),
        "domain": CorpusSpec("a", "b", newline="strip"),
        "method": MethodSpec("full", "x"),
        "seed": 9,
        "train": None,
        "recipe": "other",
        "general": (),
        "score": None,
        "tasks": (TaskSpec("t", "bundled/boolq"),),
        "replay": CorpusSpec("a", "b"),
        "early_stop_text": CorpusSpec("a", "b"),
    },
    ModelSpec: {"name": "other", "revision": "r", "max_position_embeddings": 9, "weights": "bin"},
    CorpusSpec: {
        "name": "n",
        "source": "s",
        "revision": "r",
        "field": "f",
        "config": "c",
        "split": {"test": 0.1},
        "newline": "strip",
        "special_tokens": "parse",
        "columns": {"messages": "talk"},
        "bad_rows": "drop",
        "dedupe": "test",
    },
    MethodSpec: {
        "method": "lora",
        "label": "l",
        "lr": 9.0,
        "tuned": False,
        "max_cells": 9,
        "rank": 9,
        "alpha": 9.0,
        "targets": ("q",),
        "dropout": 0.5,
        "quant": None,
        "options": {"dora": True},
    },
    QuantSpec: {"kind": "fp4", "double_quant": False},
    TrainSpec: {
        "budget_tokens": 9,
        "budget_epochs": 2.0,
        "budget_steps": 9,
        "warmup_steps": 9,
        "seq_len": 9,
        "batch_tokens": 9,
        "schedule": "wsd",
        "warmup": 0.5,
        "weight_decay": 0.1,
        "grad_clip": 0.0,
        "betas": (0.9, 0.95),
        "objective": "sft",
        "too_long": "truncate",
        "chat_template": "plain",
        "eval_at": (0.5, 1.0),
        "precision": "bf16",
        "optimizer": "adamw",
        "engine": "trl",
        "multi_lora": "off",
        "halving": 2,
    },
}


def with_other(kind, name):
    value = ANOTHER[kind][name]
    if kind is Cell:
        value = {"train": replace(CELL.train, seq_len=9), "score": replace(CELL.score, context=9)}.get(name, value)
        return replace(CELL, **{name: value})
    if kind is QuantSpec:
        return replace(CELL, method=replace(CELL.method, quant=replace(CELL.method.quant, **{name: value})))
    part = {ModelSpec: "model", CorpusSpec: "domain", MethodSpec: "method", TrainSpec: "train"}[kind]
    return replace(CELL, **{part: replace(getattr(CELL, part), **{name: value})})


@pytest.mark.parametrize(("kind", "name"), [(kind, field.name) for kind in ANOTHER for field in fields(kind)])
def test_every_field_is_hashed_or_excluded(kind, name):
    changed = short(with_other(kind, name)) != short(CELL)
    assert changed == (name not in module.EXCLUDED_FIELDS[kind])


def test_what_is_excluded_or_has_a_default_exists():
    assert set(module.EXCLUDED_FIELDS) == set(module.DEFAULTS) == set(ANOTHER)
    for kind, names_of_kind in [*module.EXCLUDED_FIELDS.items(), *module.DEFAULTS.items()]:
        assert set(names_of_kind) <= {field.name for field in fields(kind)}
        assert not set(module.EXCLUDED_FIELDS[kind]) & set(module.DEFAULTS[kind])


@pytest.mark.parametrize("fact", sorted(set(FACTS) - {"saved", "replay", "early_stop"}))
def test_every_fact_is_needed_and_enters(fact):
    assert short(CELL, {**FACTS, fact: "another"}) != short(CELL)
    with pytest.raises(KeyError):
        short(CELL, {name: value for name, value in FACTS.items() if name != fact})


def test_a_saved_adapter_is_hashed_by_content_not_by_path():
    one, two = (cells(load_recipe(MINIMAL.replace("full", f"{{method: saved, path: {path}}}")))[0] for path in "ab")
    assert short(one) == short(replace(one, seed=3)) == short(two)
    assert short(one, {**FACTS, "saved": "another"}) != short(one)


def test_a_default_that_is_written_out_changes_nothing():
    written = "weight_decay: 0, grad_clip: 1, betas: [0.9, 0.999], objective: text, eval_at: 100%, engine: native"
    assert short(cells(load_recipe(f"{MINIMAL}train: {{{written}}}\n"))[0]) == short(cells(load_recipe(MINIMAL))[0])


def test_a_new_option_at_its_default_leaves_hashes_alone():
    options = {key: value for key, value in CELL.method.options.items() if key != "dora"}
    assert short(replace(CELL, method=replace(CELL.method, options=options))) == short(CELL)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_does_not_matter(value):
    assert canonical(value) == canonical(reversed_keys(value))


@given(JSON)
def test_canonical_text_is_json_that_says_the_same(value):
    assert json.loads(canonical(value)) == value


def test_numbers_that_are_equal_hash_equally():
    assert canonical([1.0, 16.0, 0.1, 1e-05, True]) == "[1,16,0.1,1e-05,true]"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", {1: 2}, float("nan"), float("inf"), [{"a": print}]])
def test_what_has_no_stable_form_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="identity"):
        digest({"value": value})
