"""Families that the simulator does not know: their steps are traced, their documents kept apart, their limits told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import micro
from transformers import AutoConfig, AutoModelForCausalLM

from peftodyssey import assets
from peftodyssey.errors import MethodError
from peftodyssey.memory.memory_plan import estimate
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.memory.step_trace import _cached, trace_step
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.targets import adapter_share, target_linears
from peftodyssey.models.load import linear_names, load
from peftodyssey.models.local_model import read_config
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import resolve
from peftodyssey.recipe.cell import MethodSpec, QuantSpec

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 512}
HEADS = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**HEADS, **EXPERTS},
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
    "qwen3_next": {**HEADS, **EXPERTS, **DELTA, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": {**HEADS, **DELTA, "head_dim": 16},
    "gemma4_text": {**HEADS, "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16},
    "lfm2": {**HEADS, "layer_types": ["conv", "full_attention"]},
    "opt": {**HEADS, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {**HEADS, "n_head": 4},
    "mamba": {**SMALL, "state_size": 8},
    "mamba2": {**SMALL, "num_heads": 8, "head_dim": 16, "state_size": 16, "chunk_size": 16},
    "rwkv": {**SMALL, "attention_hidden_size": 64, "context_length": 512},
}
TRAINED = ("mixtral", "qwen3_5_text", "mamba")


def folder_of(family: str, target: Path, **more: Any) -> Path:
    """A model of random weights with the bundled tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**CONFIGS[family], **more})
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (target / file).write_bytes((assets.model_files("odyssey-3m") / file).read_bytes())
    return target


def step(full: bool, **more: Any) -> StepSpec:
    settings: dict[str, Any] = {
        "precision": "fp32",
        "quant": None,
        "trainable": 1,
        "full": full,
        "adapter_rank": 0 if full else 4,
        "seq_len": 64,
        "micro_batch_size": 2,
        "gradient_checkpointing": "none",
        "engine": "native",
        "device": "cpu",
        "packed": True,
    }
    return StepSpec(**settings | more)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_documents_of_a_row_are_predicted_as_each_is_alone(family: str, tmp_path: Path) -> None:
    """The oracle is plain transformers on each document."""
    folder = folder_of(family, tmp_path / family)
    model, plain = load(resolve(str(folder)), precision="fp32"), AutoModelForCausalLM.from_pretrained(folder).eval()
    lengths = [20, 37, 7]
    ids = torch.randint(1, 512, (2, sum(lengths)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in lengths]).expand(2, -1)
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]).expand(2, -1)
    with torch.no_grad():
        together = model.eval()(**packed_inputs(model, ids, positions, segments)).logits
        alone = torch.cat([plain(part, use_cache=False).logits for part in ids.split(lengths, 1)], 1)
    torch.testing.assert_close(together.log_softmax(-1), alone.log_softmax(-1), rtol=1e-4, atol=1e-4)
    names = [linear.name for linear in shape_from_config(resolve(str(folder)).config).linears]
    assert linear_names(model) == names


def test_dropout_is_refused_where_documents_pass_alone(tmp_path: Path) -> None:
    """Its masks belong to rows of the batch, of which there are others then."""
    model = load(resolve(str(folder_of("mamba", tmp_path / "mamba"))), precision="fp32")
    attached = METHODS["lora"].attach(model, MethodSpec("lora", "lora", rank=2, dropout=0.1), 0)
    ids = torch.ones(1, 8, dtype=torch.long)
    with pytest.raises(MethodError, match="dropout cannot be trained with on a mamba model"):
        packed_inputs(attached.model.train(), ids, torch.arange(8)[None], torch.zeros_like(ids))


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - {"rwkv", "mamba"}))  # loops over tokens: slow
def test_a_step_is_planned_for_both_methods(family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path))
    shape = shape_from_config({"model_type": family, **CONFIGS[family]})
    full, lora = trace_step(shape, step(True), 0), trace_step(shape, step(False), 4)
    plan = METHODS["lora"].count(MethodSpec("lora", "lora", rank=4), shape)
    assert lora.gradient_bytes == 4 * plan
    assert full.gradient_bytes == pytest.approx(4 * shape.parameters, rel=0.01)
    assert full.peak_bytes > lora.peak_bytes > lora.gradient_bytes
    assert estimate(shape, step(True)).peak_allocated_bytes > 16 * shape.parameters
    larger = step(False, micro_batch_size=6)
    assert trace_step(shape, larger, 4).peak_bytes == pytest.approx(
        _cached(shape, larger, 4, False).peak_bytes, rel=0.05
    )


def test_what_has_no_adapter_is_told_and_experts_are_not_called_quantised() -> None:
    shape = shape_from_config({"model_type": "mixtral", **CONFIGS["mixtral"]})
    experts = 2 * 4 * 3 * 64 * 128
    assert shape.expert_parameters == experts
    told = adapter_share(shape, None)
    attention = 2 * (2 * 64 * 64 + 2 * 64 * 32)
    assert told.startswith(f"{100 * attention / shape.parameters:.0f} % of the weights have an adapter (q_proj, k_proj")
    assert f"experts that are stored in one tensor ({100 * experts / shape.parameters:.0f} %)" in told
    assert shape.quantised_share == attention / (attention + experts)
    qlora = MethodSpec("qlora", "qlora", rank=4, quant=QuantSpec("nf4"))
    assert "would store 11% of the decoder's matrices in nf4" in METHODS["qlora"].check(qlora, shape)[0]
    assert not METHODS["lora"].check(MethodSpec("lora", "lora", rank=4), shape)


def test_names_that_peft_takes_for_experts_are_left_out_or_refused() -> None:
    """PEFT rewrites `gate_proj` into an adapter of the experts: what is counted would not be what is trained."""
    shape = shape_from_config({"model_type": "qwen3_next", **CONFIGS["qwen3_next"]})
    assert {m.leaf for m in target_linears(shape, None)} == {"in_proj_qkvz", "in_proj_ba", "out_proj"}
    asked = MethodSpec("lora", "lora", rank=4, targets=("gate_proj", "up_proj"))
    assert "takes gate_proj, up_proj for the fused experts of qwen3_next" in METHODS["lora"].check(asked, shape)[0]


def test_state_space_outputs_get_no_adapter() -> None:
    shape = shape_from_config({"model_type": "mamba", **CONFIGS["mamba"]})
    assert {m.leaf for m in target_linears(shape, None)} == {"in_proj", "x_proj", "dt_proj"}


@pytest.mark.slow
@pytest.mark.parametrize("family", TRAINED)
def test_two_steps_train_and_the_adapter_loads_in_plain_peft(family: str, tmp_path: Path) -> None:
    import peft

    base = folder_of(family, tmp_path / "base", vocab_size=4096)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"version: 1\nname: r\nseeds: [0]\nmodel: {{name: {base}}}\ndomains: [bundled/wiki_mathematics_logic]\n"
        "methods: [{method: full, lr: 1e-3}, {method: lora, rank: 4, lr: 1e-3}]\n"
        "train: {budget: 512 tokens, seq_len: 128, batch_tokens: 256}\nscore: {context: 128, tokens: 1k}\n"
    )
    out = tmp_path / "out"
    ended = micro.invoke("check", recipe)
    assert ended.returncode == 0, ended.stderr
    assert "of the weights have an adapter" in " ".join((ended.stdout + ended.stderr).split())
    ended = micro.invoke("run", recipe, "--out", out, "--device", "cpu")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Cells: 2 done" in ended.stdout + ended.stderr
    assert micro.invoke("export", out, "method=lora", "--to", tmp_path / "adapter").returncode == 0
    plain = AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert any(p.abs().sum() > 0 for name, p in wrapped.named_parameters() if "lora_B" in name)


def test_infinity_as_transformers_writes_it_is_a_number(tmp_path: Path) -> None:
    config = {
        "model_type": "mamba2",
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "rope": {"__float__": 1, "a": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(tmp_path)
    assert read["time_step_limit"] == [0.0, math.inf]
    assert read["rope"] == {"__float__": 1, "a": 2}
