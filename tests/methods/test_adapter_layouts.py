"""Adapters as axolotl, LLaMA-Factory, unsloth, TRL, torchtune and mlx-lm lay them out give plain PEFT's losses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.damaged import variant
from support.micro import RECIPE, invoke
from support.peft_adapters import lora_folder
from support.tiny import tiny
from transformers import AutoModelForCausalLM

from peftodyssey import api
from peftodyssey.errors import MethodError, RecipeError
from peftodyssey.methods.adapter_files import changes_nothing, read_adapter
from peftodyssey.methods.registry import METHODS
from peftodyssey.models.load import load
from peftodyssey.models.source import resolve

IDS = torch.randint(0, 4096, (3, 60), generator=torch.Generator().manual_seed(2))
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
OPTIONS = {
    "plain": {},
    "rank-pattern": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 16},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 64},
    },
    "rank-pattern-alone": {"rank_pattern": {"layers.1.self_attn.q_proj": 16}},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "head-and-embeddings-apart": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norm": {"modules_to_save": ["input_layernorm"]},
    "token-indices": {"trainable_token_indices": [5, 6, 7]},
    "biases": {"bias": "all", "target_modules": ["q_proj", "k_proj"]},
    "lora-bias": {"lora_bias": True},
    "on-the-head": {"target_modules": ["q_proj", "lm_head"]},
    "on-embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A base whose head is its embeddings, with biases in its attention."""
    return tiny("qwen2", tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    return lora_folder(base, tmp_path_factory.mktemp("plain") / "adapter")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))


def nll(model) -> np.ndarray:
    with torch.no_grad():
        logits = model(input_ids=IDS).logits[:, :-1].double()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten(), reduction="none").numpy()


def peft_nll(base, adapter):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    return nll(model.eval())


def ours(base, adapter):
    attached = METHODS["saved"].load(load(resolve(str(base)), precision="fp32"), adapter)
    return nll(attached.model.eval()), attached.notes


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("on", ["base", "tied"])
def test_every_kind_of_adapter_has_the_losses_of_plain_peft(name, on, request, tmp_path):
    folder = request.getfixturevalue(on)
    adapter = lora_folder(folder, tmp_path / name, **OPTIONS[name])
    expected, alone = peft_nll(folder, adapter), nll(load(resolve(str(folder)), precision="fp32").eval())
    got, notes = ours(folder, adapter)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(got - alone).max() > 1e-3
    assert ("pattern" in name) == any("rank 4, but 16 for layers.1.self_attn.q_proj" in note for note in notes)


def copied(adapter, target, change=None, **config):
    """A copy of an adapter with other names of tensors and other keys in its config; None removes a key."""
    shutil.copytree(adapter, target)
    if change:
        tensors = {change(k): v for k, v in load_file(adapter / WEIGHTS).items()}
        save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    content = json.loads((adapter / CONFIG).read_text()) | config
    content = {key: value for key, value in content.items() if value is not None or key not in config}
    (target / CONFIG).write_text(json.dumps(content))
    return target


LAYOUTS = {
    "axolotl-compiled": (lambda k: k.replace("base_model.model.", "base_model.model._orig_mod.", 1), {}),
    "axolotl-fsdp": (lambda k: k.replace("layers.1.", "layers.1._fsdp_wrapped_module."), {}),
    "llama-factory": (None, {"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "inference_mode": True}),
    "unsloth": (
        None,
        {
            "base_model_name_or_path": "unsloth/llama-3.2-1b-bnb-4bit",
            "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
            "target_modules": r"(?:.*?(?:self_attn|attention).*?(?:q_proj|v_proj).*?)",
        },
    ),
    "trl-state-dict": (lambda k: k.replace(".weight", ".default.weight"), {}),
    "trl-data-parallel": (lambda k: f"module.{k}", {}),
    "trl-twice-wrapped": (lambda k: f"base_model.model.{k}", {}),
    "torchtune": (
        None,
        dict.fromkeys(("task_type", "auto_mapping", "peft_version", "lora_dropout", "bias", "init_lora_weights")),
    ),
    "without-peft-prefix": (lambda k: k.removeprefix("base_model.model."), {}),
    "vision-language": (lambda k: k.replace("model.layers", "model.language_model.layers"), {}),
}


@pytest.mark.parametrize("tool", list(LAYOUTS))
def test_layouts_of_other_tools(tool, base, plain, tmp_path):
    change, config = LAYOUTS[tool]
    adapter = copied(plain, tmp_path / tool, change, **config)
    got, notes = ours(base, adapter)
    np.testing.assert_allclose(got, peft_nll(base, plain), atol=1e-5)
    assert (change is None) == (not any("names of tensors" in note for note in notes))
    assert ("unsloth" in tool) == any("unsloth/llama-3.2-1b-bnb-4bit" in note for note in notes)


@pytest.mark.parametrize("kind", ["lora", "dora", "of 2024"])
def test_mlx(kind, base, tmp_path):
    """y = Wx + scale (x A) B with A (in, r) and B (r, out), worked out on the weights by hand."""
    generator, scale, rank = torch.Generator().manual_seed(0), 5.0, 3
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = {}
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        linear = model.get_submodule(name)
        tensors[f"{name}.lora_a"] = torch.randn(linear.in_features, rank, generator=generator) * 0.1
        tensors[f"{name}.lora_b"] = torch.randn(rank, linear.out_features, generator=generator) * 0.1
        weight = linear.weight + scale * (tensors[f"{name}.lora_a"] @ tensors[f"{name}.lora_b"]).T
        if kind == "dora":
            tensors[f"{name}.m"] = linear.weight.norm(dim=1).detach() * 1.1
            weight = weight * (tensors[f"{name}.m"] / weight.norm(dim=1))[:, None]
        linear.weight.data = weight.detach()
    adapter = tmp_path / "mlx"
    adapter.mkdir()
    save_file(tensors, adapter / "adapters.safetensors")
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
    config = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": parameters, "model": "mlx-community/x-4bit"}
    if kind == "of 2024":  # mlx-examples/llms: its LoRALinear scales by scale * alpha / rank
        parameters |= {"scale": scale / 2, "alpha": 2 * rank}
        config = {"lora_layers": 1, "lora_parameters": parameters, "model": "mlx-community/x-4bit"}
    (adapter / CONFIG).write_text(json.dumps(config))
    got, notes = ours(base, adapter)
    np.testing.assert_allclose(got, nll(model.eval()), atol=1e-5)
    assert any("scale 5" in note for note in notes)
    assert any("mlx-community/x-4bit" in note for note in notes)


def wrong_file(name):
    def write(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(b"0")

    return write


def empty_tensors(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({k: v[:0] if "lora_B" in k else v for k, v in tensors.items()}, folder / WEIGHTS)


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])


def config_with(**entries):
    def write(folder):
        content = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(content | entries))

    return write


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (wrong_file("adapter_model.bin"), "pickled"),
        (wrong_file("adapters.npz"), "old mlx"),
        (wrong_file("adapter_0.pt"), "torchtune"),
        (empty_tensors, "are empty"),
        (truncated, "truncated"),
        (config_with(use_new_trick=True), "use_new_trick"),
        (config_with(peft_type="NEWLORA"), "NEWLORA"),
        (lambda folder: (folder / CONFIG).write_text("{"), "not JSON"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(damage, words, base, plain, tmp_path):
    folder = copied(plain, tmp_path / "bad")
    damage(folder)
    with pytest.raises(MethodError, match=words):
        ours(base, folder)


def test_a_folder_of_adapters_names_them(base, plain, tmp_path):
    copied(plain, tmp_path / "many" / "checkpoint-500")
    with pytest.raises(MethodError) as caught:
        ours(base, tmp_path / "many")
    assert "checkpoint-500" in caught.value.next_step


def zeroed(adapter, target):
    shutil.copytree(adapter, target)
    tensors = load_file(adapter / WEIGHTS)
    save_file({k: -v * 0 if "lora_B" in k else v for k, v in tensors.items()}, target / WEIGHTS)
    return target


def test_one_that_changes_nothing_says_so_in_every_verb(base, plain, tmp_path):
    nothing = zeroed(plain, tmp_path / "nothing")
    words = "changes nothing: all of lora_B is 0"
    assert words in ours(base, nothing)[1]
    assert words not in ours(base, plain)[1]
    arguments = ("--adapter", nothing, "--device", "cpu")
    scored = invoke("score", base, "bundled/arxiv_cs.CL", *arguments, "--tokens", "500", "--context", "64")
    assert words in scored.stderr
    assert words in invoke("doctor", *arguments, "--base", base).stdout
    recipe = tmp_path / "saved.yaml"
    text = RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", f"{{name: {base}}}")
    recipe.write_text(text[: text.index("methods:")] + f"methods:\n  - {{method: saved, path: {nothing}}}\n")
    recipe.write_text(recipe.read_text() + text[text.index("train:") :])
    assert words in invoke("check", recipe).stdout
    assert any(words in warning for warning in api.plan(recipe, device="cpu").warnings)
    (nothing / WEIGHTS).unlink()
    with pytest.raises(RecipeError, match=WEIGHTS):
        api.plan(recipe, device="cpu")


@pytest.mark.parametrize("name", ["plain", "dora", "token-indices", "head-and-embeddings-apart", "norm"])
def test_only_lora_alone_can_change_nothing(name, base, tmp_path):
    nothing = zeroed(lora_folder(base, tmp_path / "a", **OPTIONS[name]), tmp_path / "b")
    assert changes_nothing(read_adapter(nothing)) == (name == "plain")


def test_a_tied_weight_that_training_parted_is_kept_apart(tied, tmp_path):
    head = torch.randn(4096, 64, generator=torch.Generator().manual_seed(4)) * 0.1
    parted = variant(tied, tmp_path / "parted", lambda tensors: tensors | {"lm_head.weight": head})
    assert json.loads((parted / "config.json").read_text())["tie_word_embeddings"]
    notes = []
    model = load(resolve(str(parted)), precision="fp32", on_note=notes.append)
    assert torch.equal(model.lm_head.weight, head)
    assert not torch.equal(model.model.embed_tokens.weight, head)
    np.testing.assert_allclose(nll(model.eval()), nll(AutoModelForCausalLM.from_pretrained(parted).eval()), atol=1e-6)
    assert any("tie" in note for note in notes)


def test_doctor_says_whether_an_adapter_belongs_to_a_base(base, plain, tied, tmp_path):
    good = invoke("doctor", "--adapter", plain, "--base", base, "--device", "cpu")
    assert good.returncode == 0, good.stdout
    assert "4 of 4 are modules of the base" in good.stdout
    assert f"made for       {base}" in good.stdout
    tensors = load_file(plain / WEIGHTS)
    a = sum(t.double().square().sum() for k, t in tensors.items() if "layers.1." in k and "lora_A" in k) ** 0.5
    assert f"layer 1        |A| {a:.4g}" in good.stdout
    moved = np.abs(peft_nll(base, plain) - nll(AutoModelForCausalLM.from_pretrained(base).eval())).max()
    assert moved > 0
    assert "logits         moved by at most" in good.stdout
    other = invoke("doctor", "--adapter", plain, "--base", tiny("gpt2", tmp_path), "--device", "cpu")
    assert other.returncode == 2
    assert "no module of it is called q_proj" in other.stdout
    deeper = copied(plain, tmp_path / "deeper", lambda k: k.replace("layers.1.", "layers.7."))
    deep = invoke("doctor", "--adapter", deeper, "--base", base, "--device", "cpu")
    assert "its layers end at 1" in deep.stdout
    wide = tiny("llama", tmp_path / "wide", hidden_size=128, num_attention_heads=8)
    assert "of another size" in invoke("doctor", "--adapter", plain, "--base", wide, "--device", "cpu").stdout
    assert "belong together" in invoke("doctor", "--adapter", plain).stderr
