"""The update of each weight for every method: against the merged model that PEFT or transformers makes, and against a
dense SVD.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from support.adapted_models import (
    CASES,
    frozen_digest,
    logits,
    method_spec,
    quantised_model,
    saved_model,
    spec_of,
    tiny_model,
    train,
)

from peftodyssey.methods import svd
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import additive_deltas, base_norm, is_additive, iter_updates
from peftodyssey.recipe.cell import QuantSpec

TURNED = ("full", "lora", "rslora-dora", "pissa", "ia3", "bitfit")  # gpt2 stores its matrices the other way round
FEW = [(family, name) for family, name in CASES if family == "llama" or (family == "gpt2" and name in TURNED)]


def matrices(model) -> dict[str, torch.Tensor]:
    """Weights as (out, in)."""
    from transformers.pytorch_utils import Conv1D

    turned = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    return {name: (p.T if name in turned else p).detach().clone() for name, p in model.named_parameters()}


def trained(family: str, name: str):
    model = tiny_model(family)
    given = spec_of(name, model)
    attached = METHODS[given.method].attach(model, given, 3)
    train(attached)
    return METHODS[given.method], attached


@pytest.mark.parametrize(("family", "name"), FEW)
def test_base_and_update_add_up_to_the_merged_model_and_nothing_is_changed(family: str, name: str) -> None:
    method, attached = trained(family, name)
    before, digest, out = matrices(tiny_model(family)), frozen_digest(attached.model), logits(attached.model)
    updates = {update.name: update for update in iter_updates(attached)}
    assert frozen_digest(attached.model) == digest
    assert torch.equal(logits(attached.model), out)
    assert base_norm(attached) == pytest.approx(
        float(torch.stack([w.double().square().sum() for w in before.values()]).sum().sqrt()), rel=1e-6
    )
    start = dict(tiny_model(family).named_parameters())
    stored = additive_deltas(attached, start) if is_additive(attached.spec) else {}
    merged, _ = method.merge(attached, tiny_model(family) if attached.is_adapter else None)
    for key, update in stored.items():
        torch.testing.assert_close(update, merged.get_parameter(key).detach() - start[key], atol=2e-6, rtol=1e-4)
    assert stored or name not in ("full", "lora")
    assert not stored or name not in ("pissa", "rslora-dora", "ia3", "bitfit")
    after = matrices(merged)
    assert set(updates) <= set(before)
    for key, weight in after.items():
        moved = weight - before[key]
        if key in updates:
            torch.testing.assert_close(updates[key].base, before[key])
            torch.testing.assert_close(updates[key].dense, moved, atol=2e-6, rtol=1e-4)
        else:
            assert not moved.any()
    assert max(float(update.dense.norm()) for update in updates.values()) > 1e-3
    method.detach(attached)


@pytest.mark.parametrize("name", ["lora", "rslora-dora", "pissa", "ia3", "full"])
def test_a_cell_that_is_loaded_moved_as_far_as_the_one_that_was_trained(name: str, tmp_path) -> None:
    method, attached = trained("llama", name)
    here = {update.name: update.dense for update in iter_updates(attached)}
    method.export(attached, tmp_path / "kept")
    loaded = METHODS["saved"].load(tiny_model("llama"), tmp_path / "kept")
    there = {update.name: update.dense for update in iter_updates(loaded)}
    assert set(here) <= set(there)
    for key, change in there.items():
        torch.testing.assert_close(change, here[key] if key in here else torch.zeros_like(change), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["lora", "pissa"])
def test_low_rank_updates_stay_factors(name: str) -> None:
    rank = 4 if name == "lora" else 8
    _, attached = trained("llama", name)
    for update in iter_updates(attached):
        assert update.lora_B.shape[1] == update.lora_A.shape[0] == rank
        dense = np.linalg.svd((update.lora_B.double() @ update.lora_A.double()).numpy(), compute_uv=False)
        np.testing.assert_allclose(
            svd.low_rank_singular_values(update.lora_B, update.lora_A).numpy(), dense[:rank], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("options", [{}, {"dora": True}])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_on_a_quantised_base_the_update_is_the_adapters_alone(family: str, options: dict, tmp_path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = quantised_model(saved_model(tiny_model(family), tmp_path / "base"))
    stored = {
        f"{name}.weight": bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }
    attached = METHODS["qlora"].attach(model, method_spec("qlora", quant=QuantSpec("nf4"), options=options), 0)
    train(attached)
    digest = frozen_digest(attached.model)
    factors = get_peft_model_state_dict(attached.model)
    updates = {update.name: update for update in iter_updates(attached)}
    assert set(updates) == set(stored)
    for key, update in updates.items():
        torch.testing.assert_close(update.base, stored[key])
        stem = "base_model.model." + key.removesuffix(".weight")
        product = 2.0 * factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]  # alpha over rank is 2
        if options:
            moved = stored[key] + product
            product = (factors[f"{stem}.lora_magnitude_vector"] / moved.norm(dim=1))[:, None] * moved - stored[key]
        torch.testing.assert_close(update.dense, product, atol=1e-6, rtol=1e-4)
    assert frozen_digest(attached.model) == digest
    assert base_norm(attached) > float(torch.stack([w.square().sum() for w in stored.values()]).sum().sqrt())


def test_on_eight_bits_the_base_is_what_its_storage_stands_for(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = saved_model(tiny_model("llama"), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map={"": "cpu"}
    )
    attached = METHODS["lora"].attach(model.requires_grad_(False), method_spec("lora", quant=QuantSpec("int8")), 0)
    plain = matrices(tiny_model("llama"))
    for scored in (False, True):
        if scored:
            logits(attached.model)
        for update in iter_updates(attached):
            assert (
                0 < float((update.base - plain[update.name]).abs().max()) < float(plain[update.name].abs().max()) / 127
            )


def test_what_cannot_be_merged_into_a_quantised_weight_says_so(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    model = quantised_model(saved_model(tiny_model("llama"), tmp_path / "base"))
    given = method_spec(
        "peft", options={"peft_type": "VERA", "config": {"target_modules": ["q_proj"]}}, quant=QuantSpec("nf4")
    )
    attached = METHODS["peft"].attach(model, given, 0)
    assert all("vera on a quantised weight" in update.unsupported for update in iter_updates(attached))


@pytest.mark.parametrize("shape", [(40, 40), (64, 24), (24, 64)])
@pytest.mark.parametrize("rank", [5, 24])
def test_singular_values_and_vectors_are_numpys(shape: tuple[int, int], rank: int) -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    left, values, _ = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    found_values, found_left = svd.left_singular_vectors(matrix)
    assert len(found_values) >= rank
    np.testing.assert_allclose(found_values[:rank], values[:rank], rtol=1e-9)
    assert np.abs(np.sum(found_left[:, :rank].numpy() * left[:, :rank], axis=0)).min() > 1 - 1e-9
    np.testing.assert_allclose(
        found_left.T @ found_left, np.eye(found_left.shape[1]), atol=1e-4 if rank < min(shape) else 1e-9
    )
    np.testing.assert_allclose(svd.singular_values(matrix)[:rank], values[:rank], rtol=1e-9)
