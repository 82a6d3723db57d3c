"""A checkpoint is loaded only where its tensors are those of the model that its config.json describes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.damaged import variant
from support.peft_adapters import lora_folder
from support.tiny import FAMILIES, tiny
from transformers import AutoModelForCausalLM

from peftodyssey.errors import ModelError
from peftodyssey.models.load import load
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import QuantSpec

IDS = torch.arange(48)[None] + 7
SMALL = {"vocab_size": 256, "pad_token_id": 0}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("report"))


def logits(folder, notes=None, **options):
    source = resolve(str(folder))
    said = list(source.notes)
    model = load(source, precision="fp32", on_note=said.append, **options)
    if notes is not None:
        notes += said
    with torch.no_grad():
        return model(IDS).logits


def attempt(folder):
    """The loaded model or None, and the message of the ModelError."""
    try:
        source = resolve(str(folder))
        shape_from_config(source.config)
        return load(source, precision="fp32"), ""
    except ModelError as error:
        return None, str(error)


def damages(key, tensor):
    """The tensor removed, renamed, and of another shape, each with the count and the name that is to be told."""
    other = tensor[..., :-1] if tensor.shape[-1] > 1 else torch.cat([tensor, tensor], -1)
    yield {}, "1 tensor is missing"
    yield {f"{key}_old": tensor}, "1 tensor is missing"
    yield {key: other}, "1 tensor is of another shape"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_missed_and_its_name_and_shape_are_checked(family, tmp_path):
    folder = tiny(family, tmp_path, **SMALL)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    assert len(tensors) > 10
    for key in tensors:
        rest = {name: value for name, value in tensors.items() if name != key}
        for change, told in damages(key, tensors[key]):
            save_file(rest | {k: v.contiguous() for k, v in change.items()}, file, metadata={"format": "pt"})
            with pytest.raises(ModelError, match=told) as caught:
                load(resolve(str(folder)), precision="fp32")
            assert key in caught.value.message or family == "gpt_neox"  # whose names transformers changes


@pytest.mark.parametrize("quant", [QuantSpec("nf4"), QuantSpec("int8")], ids=lambda q: q.kind)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_tensor_is_checked_where_it_is_quantised_too(family, quant, tmp_path):
    folder = tiny(family, tmp_path, **SMALL)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for key in [key for key in tensors if re.search(r"\b1\.", key)]:
        rest = {name: value for name, value in tensors.items() if name != key}
        for change, told in damages(key, tensors[key]):
            save_file(rest | {k: v.contiguous() for k, v in change.items()}, file, metadata={"format": "pt"})
            with pytest.raises(ModelError, match=told):
                load(resolve(str(folder)), precision="fp32", quant=quant)


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("_orig_mod.", None),
        ("module.", None),
        ("module._orig_mod.", None),
        ("language_model.", None),
        ("model.language_model.", "model."),
    ],
)
def test_known_prefixes_are_taken_off_and_said(prefix, names, llama, tmp_path):
    def renamed(tensors):
        if names is None:
            return {prefix + key: value for key, value in tensors.items()}
        return {key.replace(names, prefix, 1): value for key, value in tensors.items()}

    folder, notes = variant(llama, tmp_path / "model", renamed), []
    assert torch.equal(logits(folder, notes), logits(llama))
    assert any(prefix.split("model.")[-1].split("module.")[-1] in note or "language_model." in note for note in notes)
    model = load(resolve(str(folder)), precision="fp32")
    model.save_pretrained(tmp_path / "saved")  # saved under the names of the model, not of the file
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == load_file(llama / "model.safetensors").keys()


def test_an_unknown_prefix_is_refused_with_counts_and_the_first_name(llama, tmp_path):
    folder = variant(llama, tmp_path / "model", lambda t: {f"student.{key}": value for key, value in t.items()})
    with pytest.raises(ModelError, match=r"21 tensors are missing.*21 tensors are in the weights.*student\.") as caught:
        load(resolve(str(folder)), precision="fp32")
    assert "lm_head.weight" in caught.value.message


def test_layers_that_config_does_not_have_are_refused(llama, tmp_path):
    fewer = variant(llama, tmp_path / "fewer", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"9 tensors are in the weights but not in the model, first model\.layers\.1"):
        load(resolve(str(fewer)), precision="fp32")
    more = variant(llama, tmp_path / "more", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 tensors are missing .*first model\.layers\.2"):
        load(resolve(str(more)), precision="fp32")


def test_vocabularies_padded_in_both_load_and_in_one_are_refused(llama, tmp_path):
    def padded(tensors):
        wide = ("model.embed_tokens.weight", "lm_head.weight")
        return tensors | {k: torch.cat([tensors[k], torch.zeros(64, 64)]) for k in wide}

    both = variant(llama, tmp_path / "both", padded, vocab_size=4096 + 64)
    assert torch.equal(logits(both)[..., :4096], logits(llama))
    with pytest.raises(ModelError, match=r"\(4096, 64\) for \(4160, 64\)"):
        logits(variant(llama, tmp_path / "one", vocab_size=4096 + 64))


def test_what_a_model_does_not_read_is_counted_and_named(tmp_path):
    def with_masks(tensors):
        mask = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        bare = {key.removeprefix("transformer."): value for key, value in tensors.items()}  # as the first GPT-2 files
        return bare | {f"h.{layer}.attn.bias": mask.clone() for layer in range(2)}

    gpt2, notes = tiny("gpt2", tmp_path), []
    assert torch.equal(logits(variant(gpt2, tmp_path / "masks", with_masks), notes), logits(gpt2))
    assert re.search(r"2 stored tensors .*h\.\*\.attn\.bias", notes[-1])

    def with_frequencies(tensors):
        return tensors | {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(8) for n in range(2)}

    llama, notes = tiny("llama", tmp_path), []
    assert torch.equal(logits(variant(llama, tmp_path / "frequencies", with_frequencies), notes), logits(llama))
    assert re.search(r"2 stored tensors .*rotary_emb\.inv_freq", notes[-1])


def test_the_text_model_of_a_vision_language_checkpoint_loads_with_notes(tmp_path):
    def with_images(tensors):
        text = {key.replace("model.", "language_model.model.", 1): value for key, value in tensors.items()}
        return text | {"vision_tower.blocks.0.weight": torch.ones(4, 4), "multi_modal_projector.weight": torch.ones(4)}

    gemma, notes = tiny("gemma3_text", tmp_path), []
    assert torch.equal(logits(variant(gemma, tmp_path / "images", with_images), notes), logits(gemma))
    assert "language_model." in notes[0]
    assert re.search(r"2 stored tensors .*vision_tower", notes[-1])


def test_an_adapter_beside_the_base_is_not_used_and_is_told(llama, tmp_path):
    folder, notes = variant(llama, tmp_path / "both"), []
    adapter = lora_folder(llama, tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, folder / name)
    with torch.no_grad():
        adapted = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    assert torch.equal(logits(folder, notes), logits(llama))
    assert not torch.allclose(adapted, logits(llama))
    assert str(folder) in notes[0]


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("scales", [False, True])
def test_integer_and_8_bit_weights_without_a_config_are_refused(kind, scales, llama, tmp_path):
    def stored(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        more = {f"{name}_scale": torch.ones(1)} if scales else {}
        return tensors | {name: (tensors[name] * 20).to(kind)} | more

    with pytest.raises(ModelError, match=r"first model\.layers\.0\.mlp\.up_proj\.weight") as caught:
        resolve(str(variant(llama, tmp_path / "model", stored)))
    assert ("no scales" in caught.value.message) != scales


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_any_key_of_config_that_is_null_or_unreadable_is_a_sentence_or_changes_nothing(family, tmp_path):
    folder = tiny(family, tmp_path)
    config, expected = json.loads((folder / "config.json").read_text()), logits(folder)
    for key in config:
        for value in (None, "text", [], {}):
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            model, told = attempt(folder)
            assert model or any(word in told for word in (key, repr(value), "tensors")), (key, value, told)
            if model and "softcapping" not in key and key != "sliding_window":  # null is none; the forward pass refuses
                assert torch.equal(model(IDS).logits, expected), (key, value)


def test_an_unknown_rope_type_names_those_that_are_known(llama, tmp_path):
    rope = {"rope_type": "magic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ModelError, match="'magic'") as caught:
        logits(variant(llama, tmp_path / "new", rope_parameters=rope))
    assert "yarn" in caught.value.next_step
    with pytest.raises(ModelError, match="'magic'"):
        logits(variant(llama, tmp_path / "old", rope_scaling={"type": "magic", "factor": 2.0}))


def test_a_null_quantisation_is_none(llama, tmp_path):
    folder = variant(llama, tmp_path / "null", quantization_config=None)
    assert torch.equal(logits(folder), logits(llama))
    load(resolve(str(folder)), precision="fp32", quant=QuantSpec("nf4"))
