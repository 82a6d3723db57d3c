"""Laws 2 and 8 for every method on every family: start, count, frozen weights, detach, export, load, merge."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from support.adapted_models import (
    CASES,
    MOVED_STARTS,
    SPECS,
    frozen_digest,
    logits,
    max_difference,
    method_spec,
    shape_of,
    spec_of,
    tiny_model,
    train,
)
from transformers import AutoModelForCausalLM

from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weights import max_change
from peftodyssey.recipe.schema_methods import METHOD_CLASSES


def test_the_laws_run_over_every_method():
    others = {
        "qlora",
        "truncate",
        "saved",
    }  # test_qlora.py, test_truncate.py; saved: attaches what was trained elsewhere
    assert {spec.method for spec in SPECS.values()} | others == set(METHODS) == set(METHOD_CLASSES)
    assert {name for _, name in CASES} == set(SPECS)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_method_keeps_the_laws(family, name, tmp_path):
    model = tiny_model(family)
    given, anatomy = spec_of(name, model), shape_of(model)
    method, before, digest = METHODS[given.method], logits(model), frozen_digest(model)
    assert method.check(given, anatomy) == []

    attached = method.attach(model, given, 3)
    assert sum(p.numel() for p in attached.trainable.values()) == method.count(given, anatomy)
    assert {n for n, p in attached.model.named_parameters() if p.requires_grad} == set(attached.trainable)
    start = max_difference(logits(attached.model), before)
    assert start <= 1e-3 if name in MOVED_STARTS else start == 0
    assert max_change(attached) == 0

    frozen = frozen_digest(attached.model, attached.trainable)
    train(attached)
    assert frozen_digest(attached.model, attached.trainable) == frozen
    assert max_change(attached) > 1e-4
    after = logits(attached.model)
    assert max_difference(after, before) > 1e-2

    method.export(attached, tmp_path / "out", "somewhere/base")
    assert max_difference(logits(attached.model), after) == 0
    if attached.is_adapter:
        plain = PeftModel.from_pretrained(tiny_model(family), tmp_path / "out")
        assert plain.peft_config["default"].base_model_name_or_path == "somewhere/base"
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
    else:
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert max_difference(logits(plain), after) < 2e-5
    loaded = METHODS["saved"].load(tiny_model(family), tmp_path / "out")
    assert max_difference(logits(loaded.model), after) < 2e-5
    assert not loaded.trainable
    assert frozen_digest(METHODS["saved"].detach(loaded)) == digest

    merged, drift = method.merge(attached, tiny_model(family) if attached.is_adapter else None)
    assert max_difference(logits(merged), after) < 2e-5
    assert type(merged) is type(model)
    assert drift["rounding_share"] is None or drift["rounding_share"] < 1e-6

    restored = method.detach(attached)
    assert frozen_digest(restored) == digest
    assert max_difference(logits(restored), before) == 0
    again = method.attach(restored, given, 3)  # nothing of the first is left on the base
    assert len(again.trainable) == len(attached.trainable)


@pytest.mark.parametrize("name", ["lora", "pissa", "gaussian", "orthogonal", "vera"])
def test_start_depends_on_the_seed_alone(name):
    given = SPECS[name]
    method = METHODS[given.method]
    torch.manual_seed(1)
    first = method.attach(tiny_model("llama"), given, 5).initial_weights
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = method.attach(tiny_model("llama"), given, 5).initial_weights
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = method.attach(tiny_model("llama"), given, 6).initial_weights
    drawn = name not in ("pissa",)  # an exact decomposition draws nothing
    assert any(not torch.equal(first[key], other[key]) for key in first) == (drawn and name != "vera")


def test_half_precision_base_is_restored_and_trained_in_float32():
    for name in ("full", "last_layers", "lora", "pissa"):
        model = tiny_model("llama", torch.bfloat16)
        digest, given = frozen_digest(model), SPECS[name]
        method = METHODS[given.method]
        attached = method.attach(model, given, 0)
        assert {p.dtype for p in attached.trainable.values()} == {torch.float32}
        assert max_change(attached) == 0
        with torch.no_grad():
            for parameter in attached.trainable.values():
                parameter.add_(0.25)
        assert max_change(attached) == pytest.approx(0.25, rel=1e-5)
        assert frozen_digest(method.detach(attached)) == digest
    same = METHODS["full"].attach(
        tiny_model("llama", torch.bfloat16), method_spec("full", options={"master_weights": "bf16"}), 0
    )
    assert {p.dtype for p in same.trainable.values()} == {torch.bfloat16}


def test_merging_into_half_precision_states_its_rounding():
    attached = METHODS["lora"].attach(tiny_model("llama"), method_spec("lora"), 0)
    train(attached)
    _, exact = METHODS["lora"].merge(attached, tiny_model("llama"))
    _, rounded = METHODS["lora"].merge(attached, tiny_model("llama", torch.bfloat16))
    assert exact["rounding_share"] < 1e-6
    assert 1e-3 < rounded["rounding_share"] < 1
    assert (exact["stored_as"], rounded["stored_as"], rounded["matrices"]) == ("float32", "bfloat16", 14)


def test_moved_sees_one_number_and_nan():
    attached = METHODS["lora"].attach(tiny_model("llama"), method_spec("lora"), 0)
    parameter = next(iter(attached.trainable.values()))
    with torch.no_grad():
        parameter[0, 0] += 0.5
    assert max_change(attached) == pytest.approx(0.5)
    with torch.no_grad():
        parameter[0, 0] = float("nan")
    assert max_change(attached) != max_change(attached)


def test_digest_sees_one_bit():
    model = tiny_model("llama")
    digest = frozen_digest(model)
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    weight.data.view(torch.int32)[0, 0] ^= 1
    assert frozen_digest(model) != digest
    assert frozen_digest(model, {"model.layers.0.mlp.up_proj.weight"}) == frozen_digest(
        tiny_model("llama"), {"model.layers.0.mlp.up_proj.weight"}
    )
