"""Where models come from, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.tiny import tiny

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models.ladder import find_ladder
from peftodyssey.models.source import resolve, weights_folder
from peftodyssey.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("source"))


@pytest.fixture
def copy(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copy")


def test_bundled_is_known_without_weights():
    source = resolve("bundled/odyssey-3m", "annealed-64M")
    assert (source.kind, source.arm, source.pretrain_tokens) == ("bundled", "annealed", 63963136)
    assert source.fingerprint == assets.model_sha256("odyssey-3m", "annealed-64M")
    assert resolve("bundled/odyssey-3m").revision == "annealed-1024M"
    assert [rung.name for rung in find_ladder("bundled/odyssey-3m").rungs][:2] == ["init", "annealed-16M"]


@pytest.mark.parametrize(
    ("name", "revision", "hint"),
    [
        ("bundled/odysey-3m", None, "odyssey-3m"),
        ("bundled/odyssey-3m", "anealed-64M", "annealed-64M"),
        ("random/lama-7b", None, "llama-7b"),
        ("./nowhere", None, "config.json"),
        ("not a/name!", None, "owner/model"),
    ],
)
def test_a_wrong_name_names_the_right_one(name, revision, hint):
    with pytest.raises(ModelError) as caught:
        resolve(name, revision)
    assert hint in caught.value.next_step


def test_fingerprint_is_of_the_content(copy, llama):
    assert resolve(str(copy)).fingerprint == resolve(str(llama)).fingerprint
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(str(copy)).fingerprint != resolve(str(llama)).fingerprint


@pytest.mark.parametrize("size_left", [4, 100, 0.5, -1])
def test_truncated_weights_are_refused(copy, size_left):
    weights = copy / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as stream:
        stream.truncate(int(size * size_left) if isinstance(size_left, float) else size_left % size)
    with pytest.raises(ModelError, match="truncated"):
        resolve(str(copy))


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        resolve(str(copy))


def test_an_adapter_is_not_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        resolve(str(tmp_path))


def test_shards_are_read_and_missed(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(tmp_path, max_shard_size="1MB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert resolve(str(tmp_path)).weight_bytes_on_disk > 2_000_000
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match="shards"):
        resolve(str(tmp_path))


def test_shards_that_hold_a_tensor_twice_are_refused_and_one_file_beside_them_is_told(llama, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    first, second, *_ = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor * 0}, second, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{first.name} and {second.name} both hold {name}"):
        resolve(str(tmp_path / "shards"))
    (tmp_path / "shards" / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    assert any("the shards are not" in note for note in resolve(str(tmp_path / "shards")).notes)


@pytest.mark.parametrize("change", [{"is_encoder_decoder": True}, {"quantization_config": {"quant_method": "gptq"}}])
def test_what_cannot_be_measured_is_refused(copy, change):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError):
        resolve(str(copy))


def test_random_takes_another_length_and_others_do_not(llama):
    source = resolve("random/gpt2", max_position_embeddings=4096)
    assert source.config["n_positions"] == 4096
    assert source.fingerprint != resolve("random/gpt2").fingerprint
    with pytest.raises(ModelError):
        resolve(str(llama), max_position_embeddings=4096)


def test_tokenizer_equals_transformers(llama):
    from transformers import AutoTokenizer

    mine, theirs = load_tokenizer(resolve(str(llama))), AutoTokenizer.from_pretrained(llama)
    text = "The king reigned in 1200 BC; naïve αβγ 🙂\n\tend"
    tokens, offsets = mine.encode(text)
    assert tokens == theirs(text, add_special_tokens=False).input_ids
    assert len(offsets) == len(tokens)
    assert mine.decode(tokens) == text
    assert (mine.bos_id, mine.eos_id, mine.pad_id, mine.prefix_id, mine.vocab_size) == (0, 0, 0, 0, 4096)


def hub_cache(llama, root):
    """A cache as the Hub's client lays it out, holding one commit of one repository."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = root / "models--someone--tiny"
    shutil.copytree(llama, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return commit


def run_offline(code, root):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(root), "HF_HOME": str(root)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_hub_models_come_from_the_cache_offline(llama, tmp_path):
    commit = hub_cache(llama, tmp_path)
    code = (
        "import sys; from peftodyssey.models.source import *\n"
        "s = resolve('someone/tiny'); assert 'torch' not in sys.modules\n"
        "print(s.kind, s.fingerprint, weights_folder(s).name, s.weight_bytes_on_disk)"
    )
    size = (llama / "model.safetensors").stat().st_size
    assert run_offline(code, tmp_path).split() == ["hub", commit, commit, str(size)]


def test_hub_models_that_are_not_there_are_an_error_with_a_next_step(tmp_path):
    code = (
        "from peftodyssey.models.source import *; from peftodyssey.errors import ModelError\n"
        "try: resolve('someone/absent')\nexcept ModelError as e: print(e.next_step)"
    )
    assert "HF_HUB_OFFLINE" in run_offline(code, tmp_path)


def test_weights_of_a_rung_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path))
    assert (weights_folder(resolve("bundled/odyssey-3m")) / "model.safetensors").is_file()


def test_resolving_imports_no_torch(llama):
    code = (
        "import sys; from peftodyssey.models.source import resolve\n"
        "from peftodyssey.models.tokenizer import load_tokenizer\n"
        f"[load_tokenizer(resolve(n)) for n in ('bundled/odyssey-3m', 'random/llama-7b', {str(llama)!r})];"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
