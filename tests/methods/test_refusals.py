"""What methods refuse, and in which words; what they know without torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapted_models import method_spec, saved_model, shape_of, tiny_model, train

from peftodyssey.errors import MethodError
from peftodyssey.methods.peft_errors import as_method_error
from peftodyssey.methods.peft_types import SET_BY_PEFT, config_fields_by_type
from peftodyssey.methods.registry import METHODS, method
from peftodyssey.recipe.cell import QuantSpec

NF4 = QuantSpec("nf4")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (method_spec("lora", rank=33), ["rank 33", "k_proj (32 x 64)", "at most 32"]),
        (method_spec("lora", rank=None), ["needs a rank"]),
        (method_spec("lora", targets=("q_prj", "v_proj")), ["'q_prj'", "did you mean 'q_proj'"]),
        (method_spec("lora", targets=("lm_head",)), ["lm_head", "there are down_proj, gate_proj"]),
        (method_spec("lora", options={"init": "eva"}), ["eva", "looks at data"]),
        (method_spec("lora", options={"init": "pisa"}), ["no init 'pisa'"]),
        (method_spec("lora", options={"init": "orthogonal"}, rank=3), ["even rank"]),
        (method_spec("qlora", options={"init": "pissa"}, quant=NF4), ["pissa", "nf4"]),
        (method_spec("qlora"), ["4 bits"]),
        (method_spec("full", quant=NF4), ["nf4"]),
        (method_spec("full", options={"master_weights": "fp16"}), ["fp32 or bf16"]),
        (method_spec("bitfit"), ["llama model has none"]),
        (method_spec("last_layers", options={"layers": 3}), ["layers is 3", "1 to 2"]),
        (method_spec("last_layers", quant=NF4), ["nf4"]),
        (method_spec("ia3", targets=("k_prj",)), ["did you mean 'k_proj'"]),
        (method_spec("peft", options={"peft_type": "LOCON"}), ["no type 'LOCON'", "LOHA"]),
        (method_spec("peft", options={"peft_type": "VERRA"}), ["did you mean 'VERA'"]),
        (method_spec("peft", options={"peft_type": "LOKR", "config": {"rnk": 4}}), ["no field 'rnk'", "rank_dropout"]),
        (method_spec("peft", options={"peft_type": "prompt_tuning"}), ["virtual tokens"]),
        (
            method_spec("peft", options={"peft_type": "LOKR", "config": {"target_modules": ["qproj"]}}),
            ["did you mean 'q_proj'"],
        ),
        (method_spec("saved", options={"path": "/nowhere/at/all"}), ["no folder"]),
        (method_spec("saved"), ["path"]),
    ],
    ids=lambda value: "",
)
def test_check_says_what_is_wrong(given, words):
    problems = METHODS[given.method].check(given, shape_of(tiny_model("llama")))
    assert len(problems) == 1
    for word in words:
        assert word in problems[0]


def test_rank_at_the_limit_is_allowed_and_attaches():
    given, model = method_spec("lora", rank=32), tiny_model("llama")
    assert METHODS["lora"].check(given, shape_of(model)) == []
    assert METHODS["lora"].attach(model, given, 0).trainable


def test_attach_refuses_what_check_refuses():
    for given in (
        method_spec("lora", targets=("q_prj",)),
        method_spec("bitfit"),
        method_spec("saved"),
        method_spec("peft", options={"peft_type": "LOCON"}),
        method_spec("peft", options={"peft_type": "LOKR", "config": {"rnk": 1}}),
        method_spec("peft", options={"peft_type": "PREFIX_TUNING", "config": {"num_virtual_tokens": 2}}),
        method_spec("peft", options={"peft_type": "C3A"}),  # its block of 256 does not divide 64: PEFT's own reason
    ):
        with pytest.raises(MethodError):
            METHODS[given.method].attach(tiny_model("llama"), given, 0)


def test_unknown_method_names_the_nearest():
    with pytest.raises(MethodError, match="did you mean 'lora'"):
        method("lorra")
    assert method("ia3") is METHODS["ia3"]
    assert [m.name for m in METHODS.values() if not m.trains] == ["truncate", "saved"]


def test_catalogue_equals_the_installed_peft():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert set(config_fields_by_type()) == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        assert set(config_fields_by_type()[kind.value]) == {f.name for f in dataclasses.fields(config)} - set(
            SET_BY_PEFT
        ), kind


def test_check_and_count_import_no_torch():
    code = """
import sys
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.methods.registry import METHODS
from peftodyssey.recipe.cell import MethodSpec
linear = LinearShape("model.layers.0.self_attn.k_proj", 8, 8, True, 0)
a = ModelShape("llama", 9, 8, 1, 1, 1, 8, 8, 9, True, True, (linear,), 72, 0, 24, 16)
for m in METHODS.values():
    p = MethodSpec(m.name, "x", rank=2, options={"peft_type": "VERA"} if m.name == "peft" else {})
    m.check(p, a)
    if m.name != "peft": m.count(p, a)
print(sorted({"torch", "peft", "transformers", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def adapter(tmp_path):
    attached = METHODS["lora"].attach(tiny_model("llama"), method_spec("lora"), 0)
    train(attached)
    METHODS["lora"].export(attached, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_adapter_of_another_base_is_refused(adapter):
    for other in (tiny_model("gpt2"), tiny_model("llama", hidden_size=128), tiny_model("llama", num_hidden_layers=3)):
        with pytest.raises(MethodError, match=r"cannot be put on this model|does not belong to this model"):
            METHODS["saved"].load(other, adapter)


def test_adapter_with_a_missing_or_a_foreign_weight_is_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    name = next(iter(whole))
    save_file({k: v for k, v in whole.items() if k != name}, file)
    with pytest.raises(MethodError, match="1 missing keys"):
        METHODS["saved"].load(tiny_model("llama"), adapter)
    save_file({**whole, name.replace("layers.0", "layers.7"): whole[name].clone()}, file)
    with pytest.raises(MethodError, match="1 unexpected keys"):
        METHODS["saved"].load(tiny_model("llama"), adapter)


def test_damaged_and_pickled_adapters_are_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MethodError, match="truncated"):
        METHODS["saved"].load(tiny_model("llama"), adapter)
    file.unlink()
    torch.save({}, adapter / "adapter_model.bin")
    given = method_spec("saved", options={"path": str(adapter)})
    assert "pickled" in METHODS["saved"].check(given, shape_of(tiny_model("llama")))[0]
    with pytest.raises(MethodError, match="pickled"):
        METHODS["saved"].attach(tiny_model("llama"), given, 0)


def test_prompt_learning_made_elsewhere_is_refused(tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(MethodError, match="virtual tokens"):
        METHODS["saved"].load(tiny_model("llama"), tmp_path)


def test_model_of_another_shape_is_refused(tmp_path):
    folder = saved_model(tiny_model("llama", num_hidden_layers=3), tmp_path / "model")
    with pytest.raises(MethodError, match="unexpected"):
        METHODS["saved"].load(tiny_model("llama"), folder)
    wide = saved_model(tiny_model("llama", intermediate_size=256), tmp_path / "wide")
    with pytest.raises(MethodError, match="of another shape"):
        METHODS["saved"].load(tiny_model("llama"), wide)
    given = method_spec("saved", options={"path": str(folder)})
    assert METHODS["saved"].check(given, shape_of(tiny_model("llama"))) == []
    assert "llama" in METHODS["saved"].check(given, shape_of(tiny_model("gpt2")))[0]


def test_exported_config_says_what_was_asked(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["base_model_name_or_path"]) == (
        4,
        8,
        "LORA",
        None,
    )
    assert sorted(config["target_modules"]) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]


def test_running_out_of_memory_is_no_refusal_of_peft() -> None:
    with pytest.raises(torch.OutOfMemoryError), as_method_error("an adapter", "change its fields"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MethodError, match="an adapter: no such layer"), as_method_error("an adapter", "change it"):
        raise AttributeError("no such layer")
